"""Class weights of the segmentation loss, from the pixels of each class in the labeled images (ENet)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

import stuffinstance as si

from .method import Method, MethodConfig, Part, Setup
from .rare_classes import ClassPixels

if TYPE_CHECKING:
    from ..data.loader import LabeledSamples


class ClassWeightsConfig(MethodConfig):
    """How rare classes weigh more: ENet's logarithms, or the inverse frequency."""

    scheme: Literal["enet", "inverse"] = "enet"

    def uses_target(self) -> bool:
        return False


class ClassWeighting(Method):
    """Rare classes weigh more in the cross-entropy of the labeled images; their pixels are counted as for ``rcs``."""

    group, config, rank = "class_weights", ClassWeightsConfig, 56
    parts = (Part("cw", "class weights", "rare classes weigh more in the segmentation loss (ENet)"),)

    def __init__(self, config: ClassWeightsConfig, setup: Setup) -> None:
        self.pixels, self.scheme, self.device = ClassPixels(setup.space), config.scheme, setup.device
        self._weights: Tensor | None = None

    def prepare(self, labeled: LabeledSamples) -> None:
        self.pixels.count(labeled)
        self._weights = None

    @property
    def weights(self) -> Tensor:
        """(K,) float32; an error before the pixels are counted or restored."""
        if self._weights is None:
            if self.pixels.counts is None:
                raise RuntimeError("the pixels of the classes have not been counted yet")
            self._weights = si.class_weights(self.pixels.counts, self.scheme).to(self.device)
        return self._weights

    def modules(self) -> dict[str, nn.Module]:
        return {"weighted_class_pixels": self.pixels}
