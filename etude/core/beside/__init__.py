"""What people and other programs put beside the pictures of a folder: captions and files about them all."""
