"""What an unCLIP base is told of a picture: ``clip_image_embeds`` [1, d]."""

METHOD = "clip_inversion"  # whose `apply` uses what is in such a file
