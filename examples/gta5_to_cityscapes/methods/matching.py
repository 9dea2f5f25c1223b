"""SIM: stuff and instance matching."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

import stuffinstance as si

from ..models import SegmentationNetwork
from ..recipes.settings import MatchingConfig
from .method import Loss, Method, StepContext


class StuffInstanceAlignment(Method):
    """Eq. 4 to 8, and Eq. 11 where the target has pseudo-labels."""

    needs_target = True

    def __init__(
        self,
        settings: MatchingConfig,
        space: si.LabelSpace,
        network: SegmentationNetwork,
        device: torch.device,
        *,
        pseudo_labels: bool,
    ) -> None:
        self.settings = settings
        self.pseudo_labels = pseudo_labels
        self.sim = si.StuffInstanceMatching(
            space,
            feature_dim=network.feature_dim,
            preset=settings.preset,
            capacity=settings.capacity,
            max_instances=settings.max_instances,
            classifier=network.classify if settings.agreement else None,
        ).to(device)

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        with context.clock.phase("matching"):
            self.sim.update(domain.seen.features.detach(), domain.labels, domain.seen.logits.detach())
        return []

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        domain = context.unlabeled
        labels = domain.labels if self.pseudo_labels else None
        match = partial(self.sim, target_logits=domain.seen.logits, pseudo_labels=labels)
        losses = context.clock.forward_and_backward("matching", match, domain.seen.features)
        weight = self.settings.weight
        return [Loss("stuff", losses.stuff, weight), Loss("instance", losses.instance, weight)]

    def modules(self) -> dict[str, nn.Module]:
        return {"sim": self.sim}
