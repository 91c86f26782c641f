"""Inverted pictures: ``<picture>.latent`` [1, 4, h, w] and ``<picture>.null_embeddings`` [N, 77, d]."""

METHOD = "null_text_inversion"  # its `apply` uses the content of such a file
