"""Adaptation methods, one file each; every module of this package is imported, which registers its methods."""

import importlib
import pkgutil

from .composition import compose_methods, loss_titles
from .method import Domain, Loss, Method, MethodConfig, Part, Setup, StepContext, registered_methods

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Domain",
    "Loss",
    "Method",
    "MethodConfig",
    "Part",
    "Setup",
    "StepContext",
    "compose_methods",
    "loss_titles",
    "registered_methods",
]
