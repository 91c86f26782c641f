"""What all rooms stand on: files, errors, parameters, artifacts, the shape of a method."""
