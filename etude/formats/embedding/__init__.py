"""A word: the rows [n, d] of each text encoder's table, ``text_encoder`` and, for SDXL, ``text_encoder_2``."""

METHOD = "textual_inversion"  # its `apply` uses the content of such a file
