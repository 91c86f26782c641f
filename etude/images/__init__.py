"""Pictures as pixels: find, decode, crop, resize, name by content. Nothing here uses a model."""
