"""A word and its opposite: rows as ``positive.<text encoder>`` and ``negative.<text encoder>``."""

METHOD = "dream_artist"  # whose `apply` uses what is in such a file
