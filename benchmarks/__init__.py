"""What is claimed of speed, measured: ratios of runs that take turns in one session. No test asserts them."""
