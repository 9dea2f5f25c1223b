"""Class mixing with a mean teacher's labels (ClassMix, DACS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import stuffinstance as si

from ..config import AppearanceConfig, Weight
from ..data.augmentation import appearance
from .mean_teacher import TEACHER, note_taught
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext

if TYPE_CHECKING:
    from ..recipes import Recipe


class ClassMixConfig(MethodConfig):
    """Half of a source image's classes pasted into a target image (ClassMix, DACS).

    The images are mixed as they were before ``augmentation`` changed their colors and sharpness, and ``appearance``
    changes the mixed image instead, so that what is pasted does not differ by its augmentation. The defaults are those
    of DACS.
    """

    weight: Weight = 1.0
    appearance: AppearanceConfig = AppearanceConfig(
        color_jitter=0.8, brightness=0.25, contrast=0.25, saturation=0.25, hue=0.25, blur=0.5, blur_sigma=(0.15, 1.15)
    )

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
    parts = (
        Part("mix", "ClassMix", "class mixing with a mean teacher's labels (DACS)"),
        Part("wmix", "warm ClassMix", "class mixing from the weights of the recipe without it", kind="stage"),
    )
    losses = {"mixed": "ClassMix: cross-entropy"}
    requires = ("teacher",)
    cost = 1.5

    def __init__(self, config: ClassMixConfig, setup: Setup) -> None:
        self.weight = config.weight
        self.appearance = appearance(config.appearance)
        self.network = setup.network
        self.ignore_index = setup.space.ignore_index

    def on_target(self, context: StepContext) -> list[Loss]:
        source, target, teacher = context.labeled, context.unlabeled, context.found[TEACHER]
        pasted, background = (each.images if each.plain is None else each.plain for each in (source, target))
        mixed = si.class_mix(pasted, source.labels, background, teacher.labels, ignore_index=self.ignore_index)
        weights = torch.where(mixed.mask, 1.0, teacher.weights[:, None, None])
        images = mixed.images if self.appearance is None else self.appearance(mixed.images).clamp(0, 1)
        output = self.network(images)
        note_taught(context, output, mixed.labels, weights, self.weight)
        logits = target.at_scale(output.logits)
        value = si.weighted_cross_entropy(logits, mixed.labels, weights, self.ignore_index)
        return [Loss("mixed", value, self.weight)]
