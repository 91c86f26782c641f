"""Null-text inversion: `method.py` and what it calls, its numbers in `params.yaml`, its stages in `dvc.yaml`."""
