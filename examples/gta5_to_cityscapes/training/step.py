"""One step, in the order of the released code: the order is part of the method.

Labelled forward, banks, labelled backward; target forward, matching (the banks already hold this
step's rows) and adversarial losses, target backward; the discriminator on both; then all optimisers; an averaged
network follows last.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..batches.streams import Samples
from ..networks import SegmentationNetwork
from ..recipes import Recipe
from ..records.checkpoints import restore_network
from .optimisers import network_optimiser
from .terms import Domain, Loss, Passes, compose_terms

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingStep:
    """The network, its terms and all optimisers; calling it trains once and returns the loss values."""

    def __init__(self, recipe: Recipe, network: SegmentationNetwork, device: torch.device) -> None:
        self.network = network
        self.terms = compose_terms(recipe, network, device)
        self.optimisers: dict[str, Optimizer] = {"network": network_optimiser(recipe.optimiser, network)}
        for term in self.terms:
            self.optimisers |= term.optimisers()
        self.looks_at_target = recipe.needs_target
        self.forward_target = any(term.needs_target for term in self.terms)
        self.device = device
        self.precision = AUTOCAST.get(recipe.precision)
        # Only fp16 can underflow; elsewhere the scaler passes everything through.
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=self.precision is torch.float16 and device.type == "cuda"
        )

    def __call__(self, passes: Passes) -> dict[str, Tensor]:
        """Train on these pictures; the losses come back by name, detached and unweighted."""
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        record: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            for term in self.terms:
                term.before(passes)
        self._forward(passes.labelled)
        self._backward((loss for term in self.terms for loss in term.on_labelled(passes)), record)
        if self.looks_at_target:
            if self.forward_target:
                self._forward(passes.unlabelled)
            self._backward((loss for term in self.terms for loss in term.on_target(passes)), record)
            self._backward((loss for term in self.terms for loss in term.on_own_network(passes)), record)
        for optimiser in self.optimisers.values():
            self.scaler.step(optimiser)
        self.scaler.update()
        for term in self.terms:
            term.after()
        return record

    def prepare(self, labelled: Samples) -> None:
        """Before the first step of a run."""
        for term in self.terms:
            term.prepare(labelled)

    def _forward(self, domain: Domain) -> None:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            domain.output = self.network(domain.images)

    def _backward(self, losses: Iterable[Loss], record: dict[str, Tensor]) -> None:
        total: Tensor | None = None
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            for loss in losses:
                record[loss.name] = loss.value.detach()
                weighted = loss.weight * loss.value
                total = weighted if total is None else total + weighted
        if total is not None:
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of all that a step trains or remembers."""
        return {
            "network": self.network.state_dict(),
            **{name: module.state_dict() for term in self.terms for name, module in term.modules().items()},
            "optimisers": {name: each.state_dict() for name, each in self.optimisers.items()},
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, saved: dict[str, Any], path: Path) -> None:
        """Take up what :meth:`state` gave, from a checkpoint that was read from ``path``."""
        restore_network(self.network, saved, path)
        for term in self.terms:
            for name, module in term.modules().items():
                module.load_state_dict(saved[name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
        self.scaler.load_state_dict(saved["scaler"])
