"""The watch over a stage while it runs, and locks. This code does not change results, so no stage depends on it."""
