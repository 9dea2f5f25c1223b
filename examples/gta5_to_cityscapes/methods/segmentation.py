"""Cross-entropy: on labeled images, on pseudo-labels, and of an auxiliary head."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

import stuffinstance as si

from ..recipes.settings import PseudoLabelConfig
from .method import Loss, Method, StepContext

LABELLED_PIXELS, PSEUDO_PIXELS = "labeled pixels", "pseudo-labeled pixels"


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Mean over all labeled pixels of the batch, as torch's own; exactly 0, still on the graph, where none is.

    The matching losses are means over images instead: there each image counts alike, here each labeled pixel.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="sum")
    return total / labeled_pixels(labels, ignore_index).clamp(min=1)


def labeled_pixels(labels: Tensor, ignore_index: int) -> Tensor:
    """How many pixels have a label; a scalar on their device."""
    return (labels != ignore_index).sum()


class LabeledSegmentation(Method):
    """Eq. 1: cross-entropy on the labeled images, of logits divided by ``temperature`` (FADA: 1.8)."""

    def __init__(self, ignore_index: int, temperature: float = 1.0) -> None:
        self.ignore_index = ignore_index
        self.temperature = temperature

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        return {LABELLED_PIXELS: labeled_pixels(context.labeled.labels, self.ignore_index)}

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        logits = domain.logits() if self.temperature == 1 else domain.logits() / self.temperature
        return [Loss("segmentation", cross_entropy(logits, domain.labels, self.ignore_index), per=LABELLED_PIXELS)]


class AuxiliarySegmentation(Method):
    """AdaptSegNet: the second head learns from the labeled images too."""

    def __init__(self, weight: float, ignore_index: int) -> None:
        self.weight = weight
        self.ignore_index = ignore_index

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        loss = cross_entropy(domain.auxiliary_logits(), domain.labels, self.ignore_index)
        return [Loss("auxiliary_segmentation", loss, self.weight, LABELLED_PIXELS)]


class PseudoLabelSegmentation(Method):
    """Eq. 10: the same on the target, with the labels that earlier networks gave; CRST adds a divergence."""

    needs_target = True

    def __init__(self, settings: PseudoLabelConfig, ignore_index: int) -> None:
        self.settings = settings
        self.ignore_index = ignore_index

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        return {PSEUDO_PIXELS: labeled_pixels(context.unlabeled.labels, self.ignore_index)}

    def on_target(self, context: StepContext) -> list[Loss]:
        domain, weight = context.unlabeled, self.settings.weight
        value = cross_entropy(domain.logits(), domain.labels, self.ignore_index)
        losses = [Loss("pseudo", value, weight, PSEUDO_PIXELS)]
        if self.settings.divergence:
            kept = domain.labels != self.ignore_index
            divergence = si.mrkld_regularizer(domain.logits(), kept, weight=1.0)
            losses.append(Loss("divergence", divergence, weight * self.settings.divergence, PSEUDO_PIXELS))
        return losses
