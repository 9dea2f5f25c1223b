"""SIM: stuff and instance matching."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

import stuffinstance as si

from ...networks import SegmentationNetwork
from ...recipes.settings import Matching
from .term import Loss, Passes, Term


class StuffInstanceAlignment(Term):
    """Eq. 4 to 8, and Eq. 11 where the target has pseudo-labels."""

    needs_target = True

    def __init__(
        self,
        settings: Matching,
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

    def on_labelled(self, passes: Passes) -> list[Loss]:
        domain = passes.labelled
        with passes.clock.phase("matching"):
            self.sim.update(domain.seen.features.detach(), domain.labels, domain.seen.logits.detach())
        return []

    def on_target(self, passes: Passes) -> list[Loss]:
        if passes.step < self.settings.begin:
            return []
        domain = passes.unlabelled
        labels = domain.labels if self.pseudo_labels else None
        match = partial(self.sim, target_logits=domain.seen.logits, pseudo_labels=labels)
        losses = passes.clock.forward_and_backward("matching", match, domain.seen.features)
        weight = self.settings.weight
        return [Loss("stuff", losses.stuff, weight), Loss("instance", losses.instance, weight)]

    def modules(self) -> dict[str, nn.Module]:
        return {"sim": self.sim}
