"""The watch over a stage while it runs, and locks. It decides on no bit of a result, so no stage depends on it."""
