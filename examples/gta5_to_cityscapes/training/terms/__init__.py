"""What a training step is made of: one file for each method."""

from .composition import compose_terms
from .term import Domain, Loss, Passes, Term

__all__ = ["Domain", "Loss", "Passes", "Term", "compose_terms"]
