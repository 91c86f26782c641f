"""Networks before keys and values: ``<width>.<k or v>.<layer>.<linear, norm or activation>.<weight or bias>``."""

METHOD = "hypernetwork"  # whose `apply` uses what is in such a file
