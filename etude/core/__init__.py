"""What all rooms need: files, errors, parameters, artifacts, the shape of a method."""
