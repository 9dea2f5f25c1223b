"""Training loop, steps, evaluation and pseudo-labeling."""
