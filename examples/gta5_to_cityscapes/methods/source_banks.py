"""What matching and contrast with bank rows share: banks of source features, and the labels of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

import stuffinstance as si

from ..config import Count, Share, Step
from .mean_teacher import TEACHER
from .method import Loss, Method, MethodConfig, Setup, StepContext

if TYPE_CHECKING:
    from ..recipes import Recipe


class SourceBanksConfig(MethodConfig):
    """Banks of source features (Eq. 4 and 5, Algorithm 1), and which labels the target's features are compared by.

    ``labels``: the network's prediction, or a mean teacher's labels in its place. Where the teacher ignores a pixel the
    prediction stays, as with pseudo-labels (Eq. 11), which in a second stage replace both. Labels of the teacher below
    ``confidence`` are ignored altogether. The losses begin at ``start_step``.
    """

    capacity: Count = 50
    max_instances: Count = 10
    agreement: bool = True
    start_step: Step = 0
    labels: Literal["prediction", "teacher"] = "prediction"
    confidence: Share = 0.0

    def check(self, recipe: Recipe) -> None:
        for name in ("confidence", "min_confidence"):
            if getattr(self, name, 0) and self.labels != "teacher":
                group = next(group for group, settings in recipe.methods.items() if settings is self)
                raise ValueError(f"{group}.{name} is that of a teacher's labels; set {group}.labels=teacher")


class SourceBanks(Method):
    """Banks that are filled from the source, for a method that compares target features with their rows."""

    needs_forward = True
    cost = 0.3

    def __init__(self, config: SourceBanksConfig, setup: Setup, **options: Any) -> None:
        """``options`` are further ones of the facade, which holds the banks."""
        self.settings = config
        self.ignore_index = setup.space.ignore_index
        self.pseudo_labels = "pseudo_labels" in setup.recipe.methods
        self.sim = si.StuffInstanceMatching(
            setup.space,
            feature_dim=setup.network.feature_dim,
            capacity=config.capacity,
            max_instances=config.max_instances,
            classifier=setup.network.classify if config.agreement else None,
            **options,
        ).to(setup.device)

    @classmethod
    def required(cls, config: SourceBanksConfig) -> Sequence[str]:
        return ("teacher",) if config.labels == "teacher" else ()

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        self.sim.update(domain.seen.features.detach(), domain.labels, domain.seen.logits.detach())
        return []

    def target_labels(self, context: StepContext) -> Tensor:
        """The target's labels (B, h, w) at the size of its features."""
        domain = context.unlabeled
        labels = domain.seen.logits.detach().argmax(1)
        if self.settings.labels == "teacher":
            teacher = context.found[TEACHER]
            labels = si.merge_pseudo_labels(labels, teacher.labels, self.ignore_index)
            unsure = si.resize_labels(teacher.confidences < self.settings.confidence, tuple(labels.shape[1:]))
            labels = torch.where(unsure, self.ignore_index, labels)
        if self.pseudo_labels:
            labels = si.merge_pseudo_labels(labels, domain.labels, self.ignore_index)
        return labels
