"""Networks before keys and values: ``<width>.<k or v>.<layer>.<linear, norm or activation>.<weight or bias>``."""

METHOD = "hypernetwork"  # its `apply` uses the content of such a file
