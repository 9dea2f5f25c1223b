"""Optimisers and their learning rates, which are pure functions of the step.

Nothing about a schedule is state, so a resumed run cannot be at the wrong place of its own curve.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from ..networks import SegmentationNetwork
from ..recipes.settings import Optimiser, Schedule


def network_optimiser(settings: Optimiser, network: SegmentationNetwork) -> Optimizer:
    """The optimiser of the segmentation network, its head at ``head_factor`` times the rate."""
    groups = network.parameter_groups(settings.lr, settings.head_factor)
    optimiser: Optimizer
    if settings.kind == "adamw":
        optimiser = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    else:
        optimiser = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    return remember_start(optimiser)


def discriminator_optimiser(discriminator: nn.Module, lr: float, betas: tuple[float, float]) -> Optimizer:
    """The optimiser of a term's own network; its rate falls on the same curve."""
    return remember_start(torch.optim.Adam(discriminator.parameters(), lr=lr, betas=betas))


def remember_start(optimiser: Optimizer) -> Optimizer:
    """Note each group's starting rate, which the schedule scales."""
    for group in optimiser.param_groups:
        group["initial_lr"] = group["lr"]
    return optimiser


def learning_rate_factor(schedule: Schedule, step: int) -> float:
    """Share of the starting learning rate that step number ``step`` (from 0) trains with."""
    factor = max(0.0, 1.0 - step / schedule.horizon) ** schedule.power
    if step < schedule.warmup:
        factor *= (step + 1) / schedule.warmup
    return float(factor)


def set_learning_rates(optimisers: dict[str, Optimizer], schedule: Schedule, step: int) -> None:
    """Put every optimiser, the discriminator's too, at its place on the curve."""
    factor = learning_rate_factor(schedule, step)
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
