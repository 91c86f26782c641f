"""How good the pictures are: CLIP features, metrics of them, the loss at fixed noise, the best checkpoint."""
