"""One folder per method; the folder is the registry."""
