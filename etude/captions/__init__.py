"""What a picture is called: a text beside it, its file's name, or what CLIP sees in it."""
