"""XYZ grids: axes and their values, cells, layout and labels."""
