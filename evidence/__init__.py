"""The claims of the notes that Étude began with: ``claims.yaml``, the code that decides them, and the results."""
