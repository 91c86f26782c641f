"""Pages to look at: one a method, and the report that compares the chosen ones. One HTML file each, no scripts.

A room of its own: an edited template draws no grid and measures nothing again. Nothing here imports torch.
"""
