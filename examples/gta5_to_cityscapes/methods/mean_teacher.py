"""The averaged network that labels target images as training goes on, for the methods that require it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import stuffinstance as si

from ..config import Count, Decay, Share
from ..distributed import all_reduce_sum
from ..models import NetworkOutput
from .method import Domain, Method, MethodConfig, Setup, StepContext

if TYPE_CHECKING:
    from ..recipes import Recipe

TEACHER, TAUGHT = "teacher", "taught"
BINS = 4096  # of the counts that medians are taken from: 0.6 MB for 19 classes, medians to 0.0003


class TeacherLabels(NamedTuple):
    """The averaged network's labels of the target (B, H, W), some of them ignored; how much each image counts (B,).

    ``confidences`` are the largest probabilities (B, H, W), also where a label is ignored.
    """

    labels: Tensor
    weights: Tensor
    confidences: Tensor


def note_taught(context: StepContext, output: NetworkOutput, labels: Tensor, weights: Tensor, weight: float) -> None:
    """Note an output, the labels that train it and the loss's weight, for a method that trains its details too."""
    if TAUGHT in context.found:
        context.found[TAUGHT].append((output, labels, weights, weight))


class TeacherConfig(MethodConfig):
    """The mean teacher: decay of its weights, and which of its labels count.

    ``ramp``: whether the decay rises to ``alpha`` (as the plain mean of all networks does) or is ``alpha`` from the
    first step on.
    ``filter="fraction"``: all labels of an image count by the fraction of its pixels whose confidence reaches
    ``confidence`` (DACS). ``"median"``: labels below their class's median confidence in the last ``window`` to twice
    as many steps, at most 0.9, are ignored (the rule of SIM's Eq. 9 and 10), and all others count fully.
    ``mirror``: labels from the mean of the probabilities of an image and its mirror image.
    ``ignore_top``, ``ignore_bottom``: parts in which labels are ignored, as fractions of the height of what the network
    sees, after ``augmentation`` has cropped it. DAFormer ignores 15 and 120 rows of 512: 0.029 and 0.234.
    ``batch_norm``: normalization by the network's running statistics, or by those of the batch as in DAFormer's code;
    layers whose statistics the network keeps frozen stay so.
    """

    alpha: Decay = 0.999
    ramp: bool = True
    filter: Literal["fraction", "median"] = "fraction"
    confidence: Share = 0.968
    window: Count = 1000
    mirror: bool = False
    ignore_top: Share = 0.0
    ignore_bottom: Share = 0.0
    batch_norm: Literal["running", "batch"] = "running"

    def check(self, recipe: Recipe) -> None:
        if self.ignore_top + self.ignore_bottom >= 1:
            raise ValueError(
                f"teacher.ignore_top + teacher.ignore_bottom must be below 1, which would leave no labels, got "
                f"{self.ignore_top} + {self.ignore_bottom}"
            )


class RunningMedians(nn.Module):
    """Class medians of the teacher's confidence in the latest steps, over the images of all ranks (SIM, Eq. 9).

    Counts of confidences begin anew after every ``window`` steps; those of the ``window`` before are dropped then, so
    thresholds are never those of a few images. The labels of a step are compared with the thresholds from the steps
    before it, whatever the step is cut into; those of the first step are all kept. Counts and thresholds are part of
    the checkpoint.
    """

    recent: Tensor
    thresholds: Tensor

    def __init__(self, space: si.LabelSpace, window: int) -> None:
        super().__init__()
        self.window, self.step = window, -1
        self.counted = si.ClassBalancedThreshold(
            space.num_classes, ignore_index=space.ignore_index, bins=BINS, sync="off"
        )
        self._added: list[si.ClassBalancedThreshold] = []  # of this step; not a submodule: it is not part of the state
        self.register_buffer("recent", torch.zeros_like(self.counted.histogram))
        self.register_buffer("thresholds", torch.zeros(space.num_classes))

    def filter(self, step: int, confidences: Tensor, labels: Tensor) -> Tensor:
        """Labels (B, H, W) of a part of a step, ignored below the thresholds; their confidences are counted."""
        if step != self.step or not self._added:
            self.step, self._added = step, [copy.deepcopy(self.counted)]
            self._added[0].reset()
        self._added[0].update_scores(confidences, labels)
        return self.counted.filter(confidences, labels, self.thresholds)

    def end_step(self) -> None:
        """Take the counts of the step into the thresholds."""
        added = all_reduce_sum(self._added.pop().histogram)
        self.counted.histogram += added
        self.recent += added
        self.thresholds.copy_(self.counted.compute())
        if (self.step + 1) % self.window == 0:
            self.counted.histogram.copy_(self.recent)
            self.recent.zero_()


class TargetTeacher(Method):
    """The exponential mean of the network's weights, and its labels of the target."""

    group, config, rank = "teacher", TeacherConfig, 65
    step_rank = 10
    presets = {"small": TeacherConfig(alpha=0.99, filter="median", confidence=0.8, window=100)}

    def __init__(self, config: TeacherConfig, setup: Setup) -> None:
        self.settings = config
        self.student = setup.network
        self.ignore_index = setup.space.ignore_index
        self.teacher = si.MeanTeacher(setup.network, alpha=config.alpha, ramp=config.ramp)
        # The network is in training mode here; layers that it keeps frozen are not.
        pairs = zip(self.teacher.network.modules(), setup.network.modules(), strict=True)
        normalizing = [module for module, own in pairs if isinstance(module, _BatchNorm) and own.training]
        self.by_batch = normalizing if config.batch_norm == "batch" else []
        for module in self.by_batch:
            module.momentum = 0.0  # its running statistics stay those of the network
        self.medians = None
        if config.filter == "median":
            self.medians = RunningMedians(setup.space, config.window).to(setup.device)

    @torch.no_grad()
    def before(self, context: StepContext) -> None:
        for module in self.by_batch:
            module.train()
        probabilities = self._probabilities(context.unlabeled)
        confidences, labels = probabilities.max(1)
        height = labels.shape[1]
        labels[:, : round(self.settings.ignore_top * height)] = self.ignore_index
        labels[:, height - round(self.settings.ignore_bottom * height) :] = self.ignore_index
        if self.medians is None:
            weights = si.confident_fraction(probabilities, self.settings.confidence)
        else:
            labels = self.medians.filter(context.step, confidences, labels)
            weights = torch.ones(len(labels), device=labels.device)
        context.found[TEACHER] = TeacherLabels(labels, weights, confidences)

    def _probabilities(self, domain: Domain) -> Tensor:
        """Probabilities (B, K, H, W) in float32."""
        probabilities = domain.at_scale(self.teacher(domain.images).logits).softmax(1)
        if self.settings.mirror:
            mirrored = domain.at_scale(self.teacher(domain.images.flip(-1)).logits).softmax(1)
            probabilities = (probabilities + mirrored.flip(-1)) / 2
        return probabilities

    def after(self) -> None:
        self.teacher.update(self.student)
        if self.medians is not None:
            self.medians.end_step()

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher} | ({} if self.medians is None else {"teacher_medians": self.medians})
