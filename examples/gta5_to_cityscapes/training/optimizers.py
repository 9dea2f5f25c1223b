"""Optimizers and their learning rates, which are pure functions of the step.

Nothing about a schedule is state, so a resumed run cannot be at the wrong place in it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from ..config import OptimizerConfig, ScheduleConfig
from ..models import SegmentationNetwork


def network_optimizer(settings: OptimizerConfig, network: SegmentationNetwork) -> Optimizer:
    """The optimizer of the segmentation network, its head at ``head_lr_mult`` times the rate."""
    groups = network.parameter_groups(settings.lr, settings.head_lr_mult)
    optimizer: Optimizer
    if settings.kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    return remember_start(optimizer)


def discriminator_optimizer(discriminator: nn.Module, lr: float, betas: tuple[float, float]) -> Optimizer:
    """The optimizer of a method's own network; its rate follows the same schedule."""
    return remember_start(torch.optim.Adam(discriminator.parameters(), lr=lr, betas=betas))


def remember_start(optimizer: Optimizer) -> Optimizer:
    """Note each group's starting rate, which the schedule scales."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def learning_rate_factor(schedule: ScheduleConfig, step: int) -> float:
    """Share of the starting learning rate that step number ``step`` (from 0) trains with."""
    factor = max(0.0, 1.0 - step / schedule.decay_steps) ** schedule.power
    if step < schedule.warmup:
        factor *= (step + 1) / schedule.warmup
    return float(factor)


def set_learning_rates(optimizers: dict[str, Optimizer], schedule: ScheduleConfig, step: int) -> None:
    """Set the learning rates of all optimizers for this step."""
    factor = learning_rate_factor(schedule, step)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
