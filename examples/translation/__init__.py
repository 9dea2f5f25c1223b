"""Image translation between two domains with one generator for both directions, trained without labels."""
