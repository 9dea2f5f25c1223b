"""Class mixing with a mean teacher's labels (ClassMix, DACS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import stuffinstance as si

from ..config import Weight
from .mean_teacher import TEACHER
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext

if TYPE_CHECKING:
    from ..recipes import Recipe


class ClassMixConfig(MethodConfig):
    """Half of a source image's classes pasted into a target image (ClassMix, DACS)."""

    weight: Weight = 1.0

    def check(self, recipe: Recipe) -> None:
        data, augmentation = recipe.data, recipe.augmentation
        if (augmentation.crop is None or augmentation.target == "none") and data.source_size != data.target_size:
            raise ValueError(
                f"mix pastes source images {list(data.source_size)} into target images {list(data.target_size)}, "
                "which must be of one size; set augmentation.crop"
            )


class ClassMixing(Method):
    """Training on target images with half of a source image's classes pasted in (DACS)."""

    group, config, rank = "class_mixing", ClassMixConfig, 70
    step_rank = 90
    parts = (Part("mix", "ClassMix", "class mixing with a mean teacher's labels (DACS)"),)
    losses = {"mixed": "ClassMix: cross-entropy"}
    requires = ("teacher",)
    needs_forward = True
    cost = 1.5

    def __init__(self, config: ClassMixConfig, setup: Setup) -> None:
        self.weight = config.weight
        self.network = setup.network
        self.ignore_index = setup.space.ignore_index

    def on_target(self, context: StepContext) -> list[Loss]:
        source, target, teacher = context.labeled, context.unlabeled, context.found[TEACHER]
        mixed = si.class_mix(
            source.images, source.labels, target.images, teacher.labels, ignore_index=self.ignore_index
        )
        weights = torch.where(mixed.mask, 1.0, teacher.weights[:, None, None])
        logits = target.at_scale(self.network(mixed.images).logits)
        value = si.weighted_cross_entropy(logits, mixed.labels, weights, self.ignore_index)
        return [Loss("mixed", value, self.weight)]
