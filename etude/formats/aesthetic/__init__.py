"""The mean CLIP embedding of pictures that texts are turned to: ``embedding`` [1, d]."""

METHOD = "aesthetic_gradient"  # whose `apply` uses what is in such a file
