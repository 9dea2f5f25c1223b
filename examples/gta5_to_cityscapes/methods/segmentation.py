"""Segmentation loss: cross-entropy on the labeled images, part of every recipe."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .method import Loss, Method, Setup, StepContext

LABELED_PIXELS = "labeled pixels"


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, weights: Tensor | None = None) -> Tensor:
    """Mean over all labeled pixels of the batch, as torch's own; exactly 0, and still on the graph, without labels.

    With class weights (K,) the weighted mean. The matching losses are means over images instead: there each image
    counts alike, here each labeled pixel.
    """
    total = F.cross_entropy(logits.float(), labels, weights, ignore_index=ignore_index, reduction="sum")
    pixels = labeled_pixels(labels, ignore_index, weights)
    return total / torch.where(pixels > 0, pixels, 1)


def labeled_pixels(labels: Tensor, ignore_index: int, weights: Tensor | None = None) -> Tensor:
    """How many pixels have a label, or the sum of their classes' weights (K,); a scalar on their device."""
    known = labels != ignore_index
    return known.sum() if weights is None else (weights[torch.where(known, labels, 0)] * known).sum()


class LabeledSegmentation(Method):
    """Cross-entropy on the labeled images (SIM, Eq. 1), of logits divided by ``temperature`` (FADA: 1.8).

    With class weights it is the weighted mean: each labeled pixel counts by the weight of its class.
    """

    losses = {"segmentation": "Segmentation: cross-entropy"}

    def __init__(self, setup: Setup, temperature: float = 1.0) -> None:
        self.ignore_index = setup.space.ignore_index
        self.pixels = setup.class_pixels
        self.temperature = temperature

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        return {LABELED_PIXELS: labeled_pixels(context.labeled.labels, self.ignore_index, self.pixels.weights)}

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        logits = domain.logits() if self.temperature == 1 else domain.logits() / self.temperature
        value = cross_entropy(logits, domain.labels, self.ignore_index, self.pixels.weights)
        return [Loss("segmentation", value, per=LABELED_PIXELS)]
