"""Segmentation loss: cross-entropy on the labeled images, part of every recipe."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .method import Loss, Method, StepContext

LABELED_PIXELS = "labeled pixels"


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Mean over all labeled pixels of the batch, as torch's own; exactly 0, and still on the graph, without labels.

    The matching losses are means over images instead: there each image counts alike, here each labeled pixel.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="sum")
    return total / labeled_pixels(labels, ignore_index).clamp(min=1)


def labeled_pixels(labels: Tensor, ignore_index: int) -> Tensor:
    """How many pixels have a label; a scalar on their device."""
    return (labels != ignore_index).sum()


class LabeledSegmentation(Method):
    """Cross-entropy on the labeled images (SIM, Eq. 1), of logits divided by ``temperature`` (FADA: 1.8)."""

    losses = {"segmentation": "Segmentation: cross-entropy"}

    def __init__(self, ignore_index: int, temperature: float = 1.0) -> None:
        self.ignore_index = ignore_index
        self.temperature = temperature

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        return {LABELED_PIXELS: labeled_pixels(context.labeled.labels, self.ignore_index)}

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        logits = domain.logits() if self.temperature == 1 else domain.logits() / self.temperature
        return [Loss("segmentation", cross_entropy(logits, domain.labels, self.ignore_index), per=LABELED_PIXELS)]
