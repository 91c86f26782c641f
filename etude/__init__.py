"""What a task needs to know about images, diffusion and files."""
