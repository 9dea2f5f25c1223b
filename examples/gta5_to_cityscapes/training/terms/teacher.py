"""An averaged network that labels the target as training goes on, and the two terms that learn from it."""

from __future__ import annotations

import torch
from torch import nn

import stuffinstance as si

from ...networks import SegmentationNetwork
from ...networks.network import IMAGENET_MEAN_RGB
from ...recipes.settings import ClassMixing, MaskedConsistency, Teacher
from .term import Loss, Passes, TeacherLabels, Term


class TargetTeacher(Term):
    """The exponential mean of the network's weights; its labels count by how much of a picture it is sure of."""

    def __init__(self, settings: Teacher, network: SegmentationNetwork) -> None:
        self.settings = settings
        self.student = network
        self.teacher = si.MeanTeacher(network, alpha=settings.alpha)

    @torch.no_grad()
    def before(self, passes: Passes) -> None:
        domain = passes.unlabelled
        probabilities = domain.at_scale(self.teacher(domain.images).logits).softmax(1)
        weights = si.confident_share(probabilities, self.settings.confidence)
        passes.teacher = TeacherLabels(probabilities.argmax(1), weights)

    def after(self) -> None:
        self.teacher.update(self.student)

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher}


class ClassMixingTerm(Term):
    """DACS: train on target pictures with half of a source picture's classes pasted in."""

    def __init__(self, settings: ClassMixing, network: SegmentationNetwork, ignore_index: int) -> None:
        self.weight = settings.weight
        self.network = network
        self.ignore_index = ignore_index

    def on_target(self, passes: Passes) -> list[Loss]:
        source, target, taught = passes.labelled, passes.unlabelled, passes.taught
        mixed = si.class_mix(source.images, source.labels, target.images, taught.labels, ignore_index=self.ignore_index)
        weights = torch.where(mixed.mask, 1.0, taught.weights[:, None, None])
        logits = target.at_scale(self.network(mixed.images).logits)
        value = si.weighted_cross_entropy(logits, mixed.labels, weights, self.ignore_index)
        return [Loss("mixed", value, self.weight)]


class MaskedConsistencyTerm(Term):
    """MIC: the teacher's labels of the whole picture, asked of one with blocks taken out."""

    def __init__(self, settings: MaskedConsistency, network: SegmentationNetwork, ignore_index: int) -> None:
        self.settings = settings
        self.network = network
        self.ignore_index = ignore_index

    def on_target(self, passes: Passes) -> list[Loss]:
        domain, taught = passes.unlabelled, passes.taught
        # In the mean colour of natural pictures, which is what the network's normalisation makes 0.
        masked = si.mask_blocks(
            domain.images, block=self.settings.block, ratio=self.settings.ratio, fill=IMAGENET_MEAN_RGB
        )
        logits = domain.at_scale(self.network(masked).logits)
        value = si.weighted_cross_entropy(logits, taught.labels, taught.weights, self.ignore_index)
        return [Loss("masked", value, self.settings.weight)]
