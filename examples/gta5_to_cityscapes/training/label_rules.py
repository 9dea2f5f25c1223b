"""Which of a network's predictions become pseudo-labels: the settings as one of the library's rules."""

from __future__ import annotations

from collections.abc import Callable

import stuffinstance as si

from ..recipes.settings import PseudoLabels

RULES: dict[str, Callable[[PseudoLabels, si.LabelSpace], si.ThresholdRule | si.SymmetricConsistency]] = {
    "median": lambda settings, space: si.ClassBalancedThreshold(
        space.num_classes, settings.quantile, settings.cap, space.ignore_index
    ),
    # Every confidence reaches a threshold of 0.
    "argmax": lambda settings, space: si.ClassBalancedThreshold(
        space.num_classes, quantile=0.0, cap=0.0, ignore_index=space.ignore_index
    ),
    "portion": lambda settings, space: si.PortionThreshold(
        space.num_classes, settings.portion, ignore_index=space.ignore_index
    ),
    "adaptive": lambda settings, space: si.AdaptiveThreshold(
        space.num_classes,
        alpha=settings.alpha,
        beta=settings.beta,
        gamma=settings.gamma,
        ignore_index=space.ignore_index,
    ),
    "symmetric": lambda settings, space: si.SymmetricConsistency(
        si.ClassBalancedThreshold(space.num_classes, settings.quantile, settings.cap, space.ignore_index),
        settings.consistency,
    ),
}
ONLINE = {"adaptive"}  # each batch is labelled with the thresholds that it has just moved: one pass, in order


def relevant_settings(settings: PseudoLabels) -> dict[str, object]:
    """The settings that decide the labels, for a manifest; not those that decide what is done with them."""
    return settings.model_dump(exclude={"weight", "divergence"})
