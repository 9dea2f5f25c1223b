"""Rare-class sampling of the labeled images (DAFormer)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

import stuffinstance as si

from ..config import Count, Rate, Step
from .method import Method, MethodConfig, Part, Setup

if TYPE_CHECKING:
    from ..data.loader import LabeledSamples

GTA5_PIXELS = 1052 * 1914
CROP_PIXELS = 512 * 512


class RareClassConfig(MethodConfig):
    """Labeled images drawn for a class, the rarer the likelier, and cut so that they show it.

    An image is drawn for a class of which it has more than ``min_pixels``, at the size of GTA5. Its random crop is cut
    again where it has at most ``crop_pixels`` of the class, at 512 x 512: up to ``crops`` times in all, and the last is
    taken. Both numbers shrink and grow with the area of the images and crops that are trained on. The defaults are
    those of DAFormer.
    """

    temperature: Rate = 0.01
    min_pixels: Step = 3000
    crop_pixels: Step = 1500
    crops: Count = 10

    def uses_target(self) -> bool:
        return False


class RareClassSampling(Method):
    """Images of rare classes drawn more often; the pixels of each class are counted as a run begins.

    Each rank counts its share of the label maps. The counts are part of the checkpoint, so a run that goes on reads
    none of them again.
    """

    group, config, rank = "rare_classes", RareClassConfig, 55
    parts = (Part("rcs", "RCS", "labeled images with rare classes drawn more often (DAFormer)"),)

    def __init__(self, config: RareClassConfig, setup: Setup) -> None:
        height, width = setup.recipe.data.source_size
        self.pixels = setup.class_pixels
        self.settings, self.seed = config, setup.recipe.seed
        self.min_pixels = config.min_pixels * height * width // GTA5_PIXELS

    def prepare(self, labeled: LabeledSamples) -> None:
        self.pixels.count(labeled)

    def sampler(self) -> si.RareClassSampler | None:
        counts = self.pixels.counts
        if counts is None:
            return None
        options = {"seed": self.seed, "num_replicas": 1, "rank": 0, "with_class": True}  # ranks share steps, not draws
        return si.RareClassSampler(counts, self.settings.temperature, self.min_pixels, **options)

    def modules(self) -> dict[str, nn.Module]:
        return {"class_pixels": self.pixels}
