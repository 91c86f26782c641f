"""How good the pictures are: metrics of feature arrays, CLIP features, the loss at fixed noise, the best checkpoint."""
