"""Restyle images of two domains as each other, with one generator for both directions, trained without labels."""
