"""Masked image consistency with a mean teacher's labels (MIC), on blocks or on tokens (VFM-UDA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

import stuffinstance as si

from ..config import Count, Weight
from ..models.network import IMAGENET_MEAN_RGB
from ..models.vit import VitBackbone, has_mask_token
from .mean_teacher import TEACHER, note_taught
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext

if TYPE_CHECKING:
    from ..recipes import Recipe


class MaskedConsistencyConfig(MethodConfig):
    """The teacher's labels of the whole image are the target for an image with masked blocks (MIC), or masked tokens.

    ``unit="tokens"``: patches of a network ``vit`` give way to its mask token (VFM-UDA); ``block`` then has no effect.
    """

    weight: Weight = 1.0
    unit: Literal["blocks", "tokens"] = "blocks"
    block: Count = 64
    ratio: float = Field(default=0.7, ge=0.0, lt=1.0)

    def check(self, recipe: Recipe) -> None:
        if self.unit == "blocks":
            return
        network = recipe.network
        if network.name != "vit":
            raise ValueError(
                f"masked_consistency.unit=tokens needs a vision transformer, got network.name={network.name}; set "
                "network.name=vit, or masked_consistency.unit=blocks"
            )
        config = network.options.get("config")
        if config is not None and not has_mask_token(config):
            raise ValueError(
                "masked_consistency.unit=tokens needs a transformer with a mask token, which the "
                f"{config['model_type']} in network.options.config does not have; set masked_consistency.unit=blocks"
            )


class MaskedConsistency(Method):
    """The teacher's labels of the whole image are the target for an image with masked blocks or tokens (MIC)."""

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
        domain, teacher, settings = context.unlabeled, context.found[TEACHER], self.settings
        if settings.unit == "tokens":
            with cast(VitBackbone, self.network.backbone).masked_tokens(settings.ratio):
                output = self.network(domain.images)
        else:
            # In the mean color of natural images, which normalization turns into 0 (for EfficientNet-Lite nearly so).
            masked = si.random_block_mask(
                domain.images, block=settings.block, ratio=settings.ratio, fill=IMAGENET_MEAN_RGB
            )
            output = self.network(masked)
        note_taught(context, output, teacher.labels, teacher.weights, settings.weight)
        logits = domain.at_scale(output.logits)
        value = si.weighted_cross_entropy(logits, teacher.labels, teacher.weights, self.ignore_index)
        return [Loss("masked", value, settings.weight)]
