"""Models without their weights: the laws of an initialization, and running a model with its weights integrated out."""
