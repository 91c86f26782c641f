"""A model: ``<part>.<tensor>``, all tensors or those that were learned (`etude.formats.checkpoints`)."""

METHOD = "model_merge"  # whose `apply` uses what is in such a file
