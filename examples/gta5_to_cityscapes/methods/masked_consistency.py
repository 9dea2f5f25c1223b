"""Masked image consistency with a mean teacher's labels (MIC)."""

from __future__ import annotations

from pydantic import Field

import stuffinstance as si

from ..config import Count, Weight
from ..models.network import IMAGENET_MEAN_RGB
from .mean_teacher import TEACHER
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext


class MaskedConsistencyConfig(MethodConfig):
    """The teacher's labels of the whole image are the target for an image with masked blocks (MIC)."""

    weight: Weight = 1.0
    block: Count = 64
    ratio: float = Field(default=0.7, ge=0.0, lt=1.0)


class MaskedConsistency(Method):
    """The teacher's labels of the whole image are the target for an image with masked blocks (MIC)."""

    group, config, rank = "masked_consistency", MaskedConsistencyConfig, 80
    step_rank = 100
    parts = (Part("mask", "masking", "masked consistency with a mean teacher (MIC)"),)
    presets = {"small": MaskedConsistencyConfig(block=16)}
    losses = {"masked": "Masking: cross-entropy"}
    requires = ("teacher",)
    cost = 1.2

    def __init__(self, config: MaskedConsistencyConfig, setup: Setup) -> None:
        self.settings = config
        self.network = setup.network
        self.ignore_index = setup.space.ignore_index

    def on_target(self, context: StepContext) -> list[Loss]:
        domain, teacher = context.unlabeled, context.found[TEACHER]
        # In the mean color of natural images, which normalization turns into 0 (for EfficientNet-Lite nearly so).
        masked = si.random_block_mask(
            domain.images, block=self.settings.block, ratio=self.settings.ratio, fill=IMAGENET_MEAN_RGB
        )
        logits = domain.at_scale(self.network(masked).logits)
        value = si.weighted_cross_entropy(logits, teacher.labels, teacher.weights, self.ignore_index)
        return [Loss("masked", value, self.settings.weight)]
