"""Segmentation loss: cross-entropy on the labeled images, part of every recipe."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .class_weights import ClassWeighting
from .method import Loss, Method, StepContext

LABELED_PIXELS = "labeled pixels"


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, weights: Tensor | None = None) -> Tensor:
    """Mean over all labeled pixels of the batch, as torch's own; exactly 0, and still on the graph, without labels.

    The matching losses are means over images instead: there each image counts alike, here each labeled pixel.
    """
    total = F.cross_entropy(logits.float(), labels, weights, ignore_index=ignore_index, reduction="sum")
    if weights is None:
        return total / labeled_pixels(labels, ignore_index).clamp(min=1)
    share = total_weight(labels, weights, ignore_index)
    return total / torch.where(share > 0, share, 1)


def total_weight(labels: Tensor, weights: Tensor, ignore_index: int) -> Tensor:
    """Sum of the class weights (K,) over all labeled pixels; a scalar on their device."""
    known = labels != ignore_index
    return (weights[torch.where(known, labels, 0)] * known).sum()


def labeled_pixels(labels: Tensor, ignore_index: int) -> Tensor:
    """How many pixels have a label; a scalar on their device."""
    return (labels != ignore_index).sum()


class LabeledSegmentation(Method):
    """Cross-entropy on the labeled images (SIM, Eq. 1), of logits divided by ``temperature`` (FADA: 1.8).

    With class weights it is the weighted mean: each labeled pixel counts by the weight of its class.
    """

    losses = {"segmentation": "Segmentation: cross-entropy"}

    def __init__(self, ignore_index: int, temperature: float = 1.0, weighting: ClassWeighting | None = None) -> None:
        self.ignore_index = ignore_index
        self.temperature = temperature
        self.weighting = weighting

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        labels = context.labeled.labels
        if self.weighting is None:
            return {LABELED_PIXELS: labeled_pixels(labels, self.ignore_index)}
        return {LABELED_PIXELS: total_weight(labels, self.weighting.weights, self.ignore_index)}

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        logits = domain.logits() if self.temperature == 1 else domain.logits() / self.temperature
        weights = None if self.weighting is None else self.weighting.weights
        value = cross_entropy(logits, domain.labels, self.ignore_index, weights)
        return [Loss("segmentation", value, per=LABELED_PIXELS)]
