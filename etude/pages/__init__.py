"""HTML pages: one for each method, and the report that compares the chosen methods. Each is one file without scripts.

This folder is a dependency of the page and report stages only: an edited template draws no grid and measures nothing
again. Nothing here imports torch.
"""
