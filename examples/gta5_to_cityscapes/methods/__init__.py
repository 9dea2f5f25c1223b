"""Adaptation methods, one file each; every module of this package is imported, which registers its methods."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from typing import TYPE_CHECKING

import torch

from ..models import SegmentationNetwork
from .class_pixels import ClassPixels
from .method import Domain, Loss, Method, MethodConfig, Part, Setup, StepContext, registered_methods
from .segmentation import LabeledSegmentation

if TYPE_CHECKING:
    from ..recipes import Recipe

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

logger = logging.getLogger(__name__)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def compose_methods(recipe: Recipe, network: SegmentationNetwork, device: torch.device) -> list[Method]:
    """Build a recipe's methods, in the order in which a step calls them; the segmentation loss comes first.

    ``network`` is as training starts with it.
    """
    for group, settings in recipe.methods.items():
        if (start := getattr(settings, "start_step", 0)) >= recipe.schedule.max_steps:
            logger.warning(
                "%s.start_step=%d: its losses never begin in a run of %d steps.",
                group,
                start,
                recipe.schedule.max_steps,
            )
    setup = Setup(recipe, network, device, ClassPixels(recipe.label_space, device))
    kinds = sorted(registered_methods().values(), key=lambda kind: kind.step_rank)
    chosen = [kind(recipe.methods[kind.group], setup) for kind in kinds if kind.group in recipe.methods]
    temperature = max((method.labeled_temperature for method in chosen), default=1.0)
    return [LabeledSegmentation(setup, temperature), *chosen]


def loss_titles() -> dict[str, str]:
    """The title of every loss that a run can log, by its name."""
    kinds = (LabeledSegmentation, *registered_methods().values())
    return {name: title for kind in kinds for name, title in kind.losses.items()}
