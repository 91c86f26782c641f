"""Custom Diffusion: the method in `method.py`, its numbers in `params.yaml`, its stages in `dvc.yaml`."""
