"""Contrast of target regions with the rows of stuff and instance banks: matching that also repels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import nn

import stuffinstance as si

from ..config import Count, Rate, Share, Weight
from .mean_teacher import TEACHER
from .method import Loss, Part, Setup, StepContext
from .source_banks import SourceBanks, SourceBanksConfig

if TYPE_CHECKING:
    from ..recipes import Recipe


class RegionContrastConfig(SourceBanksConfig):
    """Target regions to the nearest rows of their class, away from the nearest row of every other class.

    ``repel=0`` is matching, with cosine distances unless ``distance`` is another. Regions below ``min_area`` (in pixels
    of the feature map) or below the mean confidence ``min_confidence`` of their teacher's labels do not count.
    """

    weight: Weight = 0.1
    temperature: Rate = 0.1
    distance: Literal["cosine", "l1_mean", "l1_squared", "l2"] = "cosine"
    positives: Literal["nearest", "top_k", "all"] = "nearest"
    top_k: Count = 5
    repel: Share = 1.0
    min_area: Count = 1
    min_confidence: Share = 0.0

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if self.positives == "all" and self.distance != "cosine":
            raise ValueError(
                "region_contrast.positives=all needs region_contrast.distance=cosine; set "
                "region_contrast.positives=top_k"
            )


class RegionContrast(SourceBanks):
    """Target regions are pulled towards bank rows of their class and pushed from those of all other classes."""

    group, config, rank = "region_contrast", RegionContrastConfig, 62
    step_rank = 32
    parts = (Part("rcon", "region contrast", "regions contrasted with bank rows"),)
    presets = {"small": RegionContrastConfig(capacity=20), "smoke": RegionContrastConfig(capacity=4)}
    losses = {
        "stuff_contrast": "Region contrast: stuff",
        "instance_contrast": "Region contrast: instances",
    }

    def __init__(self, config: RegionContrastConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        stuff, instance = self.sim.stuff_bank, self.sim.instance_bank
        names = ("temperature", "distance", "positives", "top_k", "repel", "min_area", "min_confidence")
        options = {name: getattr(config, name) for name in names}
        self.contrasts = {
            "stuff_contrast": si.RegionContrastLoss(stuff, negatives=instance, **options),
            "instance_contrast": si.RegionContrastLoss(instance, negatives=stuff, **options),
        }

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        features, labels = context.unlabeled.seen.features, self.target_labels(context)
        confidences = context.found[TEACHER].confidences if self.settings.min_confidence else None
        return [
            Loss(name, contrast(features, labels, confidences), self.settings.weight)
            for name, contrast in self.contrasts.items()
        ]

    def modules(self) -> dict[str, nn.Module]:
        return {"region_contrast": self.sim}
