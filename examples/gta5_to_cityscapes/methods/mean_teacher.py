"""The averaged network that labels target images as training goes on, for the methods that require it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import stuffinstance as si

from ..config import Decay, Share
from .method import Method, MethodConfig, Setup, StepContext

TEACHER = "teacher"


class TeacherLabels(NamedTuple):
    """The averaged network's labels of the target (B, H, W), and how much each image counts (B,)."""

    labels: Tensor
    weights: Tensor


class TeacherConfig(MethodConfig):
    """The mean teacher: decay of its weights, and the confidence above which a pixel counts.

    ``batch_norm``: normalization by the network's running statistics, or by those of the batch as in DAFormer's code.
    """

    alpha: Decay = 0.999
    confidence: Share = 0.968
    batch_norm: Literal["running", "batch"] = "running"


class TargetTeacher(Method):
    """The exponential mean of the network's weights; its labels count by the fraction of confident pixels."""

    group, config, rank = "teacher", TeacherConfig, 65
    step_rank = 10
    presets = {"small": TeacherConfig(alpha=0.99, confidence=0.8)}

    def __init__(self, config: TeacherConfig, setup: Setup) -> None:
        self.settings = config
        self.student = setup.network
        self.teacher = si.MeanTeacher(setup.network, alpha=config.alpha)
        normalizing = [module for module in self.teacher.modules() if isinstance(module, _BatchNorm)]
        self.by_batch = normalizing if config.batch_norm == "batch" else []
        for module in self.by_batch:
            module.momentum = 0.0  # its running statistics stay those of the network

    @torch.no_grad()
    def before(self, context: StepContext) -> None:
        for module in self.by_batch:
            module.train()
        domain = context.unlabeled
        probabilities = domain.at_scale(self.teacher(domain.images).logits).softmax(1)
        weights = si.confident_fraction(probabilities, self.settings.confidence)
        context.found[TEACHER] = TeacherLabels(probabilities.argmax(1), weights)

    def after(self) -> None:
        self.teacher.update(self.student)

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher}
