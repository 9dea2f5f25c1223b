"""Class weights of the segmentation losses, from the pixels of each class in the labeled images (ENet)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from .class_pixels import Scheme
from .method import Method, MethodConfig, Part, Setup

if TYPE_CHECKING:
    from ..data.loader import LabeledSamples


class ClassWeightsConfig(MethodConfig):
    """How rare classes weigh more: ENet's logarithms, the inverse frequency, or the effective number of images."""

    scheme: Scheme = "enet"

    def uses_target(self) -> bool:
        return False


class ClassWeighting(Method):
    """Rare classes weigh more in the cross-entropy of the labeled images; their pixels are counted as for ``rcs``."""

    group, config, rank = "class_weights", ClassWeightsConfig, 56
    parts = (Part("cw", "class weights", "rare classes weigh more in the segmentation loss (ENet)"),)

    def __init__(self, config: ClassWeightsConfig, setup: Setup) -> None:
        self.pixels = setup.class_pixels
        self.pixels.scheme = config.scheme

    def prepare(self, labeled: LabeledSamples) -> None:
        self.pixels.count(labeled)

    def modules(self) -> dict[str, nn.Module]:
        return {"class_pixels": self.pixels}
