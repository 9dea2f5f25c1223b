"""One step, in the order of the released code: the order is part of the method.

Labelled forward, banks, labelled backward; target forward, matching (the banks already hold this
step's rows) and adversarial losses, target backward; the discriminator on both; then all optimisers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from .adaptation_terms import Domain, Loss, Passes, Term
from .networks import SegmentationNetwork
from .recipes import Recipe

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingStep:
    """The network, its terms and all optimisers; calling it trains once and returns the loss values."""

    def __init__(
        self,
        recipe: Recipe,
        network: SegmentationNetwork,
        terms: list[Term],
        optimiser: Optimizer,
        device: torch.device,
    ) -> None:
        self.network = network
        self.terms = terms
        self.optimisers: dict[str, Optimizer] = {"network": optimiser}
        for term in terms:
            self.optimisers |= term.optimisers()
        self.forward_target = any(term.needs_target for term in terms)
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
        self._forward(passes.labelled)
        self._backward((loss for term in self.terms for loss in term.on_labelled(passes)), record)
        if self.forward_target:
            self._forward(passes.unlabelled)
            self._backward((loss for term in self.terms for loss in term.on_target(passes)), record)
            self._backward((loss for term in self.terms for loss in term.on_own_network(passes)), record)
        for optimiser in self.optimisers.values():
            self.scaler.step(optimiser)
        self.scaler.update()
        return record

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
