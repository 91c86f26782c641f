"""The computation of a merge: formulas, block weights, and the files that are read and written."""
