"""The caption of a picture: a text beside it, its file's name, or a captioner's description."""
