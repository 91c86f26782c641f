"""A word and its opposite: rows as ``positive.<text encoder>`` and ``negative.<text encoder>``."""

METHOD = "dream_artist"  # its `apply` uses the content of such a file
