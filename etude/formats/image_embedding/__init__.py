"""What an unCLIP base gets for a picture: ``clip_image_embeds`` [1, d]."""

METHOD = "clip_inversion"  # its `apply` uses the content of such a file
