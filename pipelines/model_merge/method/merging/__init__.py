"""What a merge computes: formulas, block weights, and the files that are read and written."""
