"""The pipeline that builds the embedded base model. No method: the root graph does not reach it."""
