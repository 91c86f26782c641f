"""What all other code needs: files, errors, parameters, artifacts, the definition of a method."""
