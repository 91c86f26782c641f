"""What an unCLIP base gets for a picture: ``clip_image_embeds`` [1, d]."""

METHOD = "clip_inversion"  # whose `apply` uses what is in such a file
