"""Pictures as pixels: find, decode, crop, resize, name by content. Nothing here knows a model."""
