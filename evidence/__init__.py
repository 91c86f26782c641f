"""What the notes that Étude began with claim, measured: ``claims.yaml``, the code that decides it, and the results."""
