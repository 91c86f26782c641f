"""The pipeline that builds the embedded base model. It is no method, and the root graph does not reach it."""
