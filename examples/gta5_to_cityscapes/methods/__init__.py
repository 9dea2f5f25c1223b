"""What a training step is made of: one file for each method."""

from .composition import compose_methods
from .method import Domain, Loss, Method, StepContext

__all__ = ["Domain", "Loss", "Method", "StepContext", "compose_methods"]
