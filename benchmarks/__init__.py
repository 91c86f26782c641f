"""The claims about speed, measured as ratios of runs that take turns in one session. No test asserts them."""
