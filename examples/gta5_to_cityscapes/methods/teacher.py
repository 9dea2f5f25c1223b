"""An averaged network that labels the target as training goes on, and the two terms that learn from it."""

from __future__ import annotations

import torch
from torch import nn

import stuffinstance as si

from ..models import SegmentationNetwork
from ..models.network import IMAGENET_MEAN_RGB
from ..recipes.settings import ClassMixConfig, MaskedConsistencyConfig, TeacherConfig
from .method import Loss, Method, StepContext, TeacherLabels


class TargetTeacher(Method):
    """The exponential mean of the network's weights; its labels count by how much of an image it is sure of."""

    def __init__(self, settings: TeacherConfig, network: SegmentationNetwork) -> None:
        self.settings = settings
        self.student = network
        self.teacher = si.MeanTeacher(network, alpha=settings.alpha)

    @torch.no_grad()
    def before(self, context: StepContext) -> None:
        domain = context.unlabeled
        probabilities = domain.at_scale(self.teacher(domain.images).logits).softmax(1)
        weights = si.confident_fraction(probabilities, self.settings.confidence)
        context.teacher = TeacherLabels(probabilities.argmax(1), weights)

    def after(self) -> None:
        self.teacher.update(self.student)

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher}


class ClassMixingTerm(Method):
    """DACS: train on target images with half of a source image's classes pasted in."""

    def __init__(self, settings: ClassMixConfig, network: SegmentationNetwork, ignore_index: int) -> None:
        self.weight = settings.weight
        self.network = network
        self.ignore_index = ignore_index

    def on_target(self, context: StepContext) -> list[Loss]:
        source, target, taught = context.labeled, context.unlabeled, context.taught
        mixed = si.class_mix(source.images, source.labels, target.images, taught.labels, ignore_index=self.ignore_index)
        weights = torch.where(mixed.mask, 1.0, taught.weights[:, None, None])
        logits = target.at_scale(self.network(mixed.images).logits)
        value = si.weighted_cross_entropy(logits, mixed.labels, weights, self.ignore_index)
        return [Loss("mixed", value, self.weight)]


class MaskedConsistencyTerm(Method):
    """MIC: the teacher's labels of the whole image, asked of one with blocks taken out."""

    def __init__(self, settings: MaskedConsistencyConfig, network: SegmentationNetwork, ignore_index: int) -> None:
        self.settings = settings
        self.network = network
        self.ignore_index = ignore_index

    def on_target(self, context: StepContext) -> list[Loss]:
        domain, taught = context.unlabeled, context.taught
        # In the mean color of natural images, which is what the network's normalization makes 0.
        masked = si.random_block_mask(
            domain.images, block=self.settings.block, ratio=self.settings.ratio, fill=IMAGENET_MEAN_RGB
        )
        logits = domain.at_scale(self.network(masked).logits)
        value = si.weighted_cross_entropy(logits, taught.labels, taught.weights, self.ignore_index)
        return [Loss("masked", value, self.settings.weight)]
