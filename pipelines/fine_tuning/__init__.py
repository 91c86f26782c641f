"""Fine-tuning: the method in `method/`, its numbers in `params.yaml`, its stages in `dvc.yaml`."""
