"""Cross-entropy: on labelled pictures, on pseudo-labels, and of an auxiliary head."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

import stuffinstance as si

from ...recipes.settings import PseudoLabels
from .term import Loss, Passes, Term

LABELLED_PIXELS, PSEUDO_PIXELS = "labelled pixels", "pseudo-labelled pixels"


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Mean over all labelled pixels of the batch, as torch's own; exactly 0, still on the graph, where none is.

    The matching losses are means over images instead: there each picture counts alike, here each labelled pixel.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="sum")
    return total / labelled_pixels(labels, ignore_index).clamp(min=1)


def labelled_pixels(labels: Tensor, ignore_index: int) -> Tensor:
    """How many pixels have a label; a scalar on their device."""
    return (labels != ignore_index).sum()


class LabelledSegmentation(Term):
    """Eq. 1: cross-entropy on the labelled pictures, of logits divided by ``temperature`` (FADA: 1.8)."""

    def __init__(self, ignore_index: int, temperature: float = 1.0) -> None:
        self.ignore_index = ignore_index
        self.temperature = temperature

    def counts(self, passes: Passes) -> dict[str, Tensor]:
        return {LABELLED_PIXELS: labelled_pixels(passes.labelled.labels, self.ignore_index)}

    def on_labelled(self, passes: Passes) -> list[Loss]:
        domain = passes.labelled
        logits = domain.logits() if self.temperature == 1 else domain.logits() / self.temperature
        return [Loss("segmentation", cross_entropy(logits, domain.labels, self.ignore_index), per=LABELLED_PIXELS)]


class AuxiliarySegmentation(Term):
    """AdaptSegNet: the second head learns from the labelled pictures too."""

    def __init__(self, weight: float, ignore_index: int) -> None:
        self.weight = weight
        self.ignore_index = ignore_index

    def on_labelled(self, passes: Passes) -> list[Loss]:
        domain = passes.labelled
        loss = cross_entropy(domain.auxiliary_logits(), domain.labels, self.ignore_index)
        return [Loss("auxiliary_segmentation", loss, self.weight, LABELLED_PIXELS)]


class PseudoLabelSegmentation(Term):
    """Eq. 10: the same on the target, with the labels that earlier networks gave; CRST adds a divergence."""

    needs_target = True

    def __init__(self, settings: PseudoLabels, ignore_index: int) -> None:
        self.settings = settings
        self.ignore_index = ignore_index

    def counts(self, passes: Passes) -> dict[str, Tensor]:
        return {PSEUDO_PIXELS: labelled_pixels(passes.unlabelled.labels, self.ignore_index)}

    def on_target(self, passes: Passes) -> list[Loss]:
        domain, weight = passes.unlabelled, self.settings.weight
        value = cross_entropy(domain.logits(), domain.labels, self.ignore_index)
        losses = [Loss("pseudo", value, weight, PSEUDO_PIXELS)]
        if self.settings.divergence:
            kept = domain.labels != self.ignore_index
            divergence = si.mrkld_regulariser(domain.logits(), kept, weight=1.0)
            losses.append(Loss("divergence", divergence, weight * self.settings.divergence, PSEUDO_PIXELS))
        return losses
