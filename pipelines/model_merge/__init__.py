"""Model merge: the method in `method.py`, its arithmetic in `merging/`, its numbers in `params.yaml`."""
