"""The mean CLIP embedding of pictures that texts are turned to: ``embedding`` [1, d]."""

METHOD = "aesthetic_gradient"  # its `apply` uses the content of such a file
