"""The pipeline that builds the embedded base model. It is not a method, and it is not part of the root graph."""
