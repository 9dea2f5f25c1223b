"""The averaged network that labels target images as training goes on, for the methods that require it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import stuffinstance as si

from ..config import Decay, Share
from .method import Method, MethodConfig, Setup, StepContext

TEACHER = "teacher"


class TeacherLabels(NamedTuple):
    """The averaged network's labels of the target (B, H, W), and how much each image counts (B,)."""

    labels: Tensor
    weights: Tensor


class TeacherConfig(MethodConfig):
    """The mean teacher: decay of its weights, and the confidence above which a pixel counts."""

    alpha: Decay = 0.999
    confidence: Share = 0.968


class TargetTeacher(Method):
    """The exponential mean of the network's weights; its labels count by the fraction of confident pixels."""

    group, config, rank = "teacher", TeacherConfig, 65
    step_rank = 10
    presets = {"small": TeacherConfig(alpha=0.99, confidence=0.8)}

    def __init__(self, config: TeacherConfig, setup: Setup) -> None:
        self.settings = config
        self.student = setup.network
        self.teacher = si.MeanTeacher(setup.network, alpha=config.alpha)

    @torch.no_grad()
    def before(self, context: StepContext) -> None:
        domain = context.unlabeled
        probabilities = domain.at_scale(self.teacher(domain.images).logits).softmax(1)
        weights = si.confident_fraction(probabilities, self.settings.confidence)
        context.found[TEACHER] = TeacherLabels(probabilities.argmax(1), weights)

    def after(self) -> None:
        self.teacher.update(self.student)

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher}
