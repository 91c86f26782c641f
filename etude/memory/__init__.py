"""How much memory a build needs, counted before anything is downloaded: its own code runs on tensors without values."""
