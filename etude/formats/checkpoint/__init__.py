"""A model: ``<part>.<tensor>``, all tensors or those that were learned (`etude.formats.checkpoints`)."""

METHOD = "model_merge"  # its `apply` uses the content of such a file
