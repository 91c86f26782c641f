"""Model merge: the method in `method/`, its numbers in `params.yaml`."""
