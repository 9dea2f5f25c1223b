"""Training step, in the order of the reference implementation: the order is part of the method.

Labeled forward, banks, labeled backward; target forward, matching (the banks already hold this
step's rows) and adversarial losses, target backward; the discriminator on both; then all optimizers; an averaged
network follows last. A step that is cut into parts goes through all labeled ones first, then all of the target: its
banks are then those of the uncut step when the first target region is matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import stuffinstance as si

from ..checkpoint import restore_network
from ..config import OptimizerConfig, ScheduleConfig
from ..data.loader import LabeledSamples
from ..distributed import all_reduce_sum, average_running_statistics, sum_gradients, world_size
from ..methods import Loss, StepContext, compose_methods
from ..methods.method import IMAGES, remember_start
from ..models import SegmentationNetwork
from ..recipes import Recipe

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingStep:
    """The network, its methods and all optimizers; calling it trains once and returns the loss values.

    Attributes:
        skipped: Steps in a row, up to the last, in which fp16 overflowed: they changed nothing but the scale of losses.
    """

    def __init__(self, recipe: Recipe, network: SegmentationNetwork, device: torch.device) -> None:
        self.network = network
        self.methods = compose_methods(recipe, network, device)
        self.optimizers: dict[str, Optimizer] = {"network": network_optimizer(recipe.optimizer, network)}
        for method in self.methods:
            self.optimizers |= method.optimizers()
        self.needs_target = recipe.needs_target
        self.forward_target = any(method.needs_forward for method in self.methods)
        self.batch_size = recipe.data.batch
        self.device = device
        self.precision = AUTOCAST.get(recipe.precision)
        # Only fp16 can underflow; elsewhere the scaler passes everything through.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        self.skipped = 0
        self.parameters = [
            parameter for module in self._modules() for parameter in module.parameters() if parameter.requires_grad
        ]

    def __call__(self, parts: Sequence[StepContext]) -> dict[str, Tensor]:
        """Train on these images of this rank.

        The losses come back by name, detached and unweighted; summed over ranks they are those of the whole step.
        """
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        before = self._buffers() if self.scaler.is_enabled() else []
        record: dict[str, Tensor] = {}
        with self._autocast():
            for part in parts:
                for method in self.methods:
                    method.before(part)
        self._share_out(parts)
        for part in parts:
            self._backward(part, self._of_labeled(part), record)
            part.labeled.release()
        for part in parts if self.needs_target else ():
            self._backward(part, self._of_target(part), record)
            own = chain.from_iterable(method.on_own_network(part) for method in self.methods)
            self._backward(part, own, record)
            if self.forward_target:
                part.unlabeled.release()
        sum_gradients(self.parameters)
        self._update(before)
        return record

    def prepare(self, labeled: LabeledSamples) -> None:
        """Before the first step of a run."""
        for method in self.methods:
            method.prepare(labeled)

    def sampler(self) -> si.RareClassSampler | None:
        """What draws the labeled images, once they are read or their state restored; None for shuffled epochs."""
        samplers = (method.sampler() for method in self.methods)
        return next((each for each in samplers if each is not None), None)

    def _of_labeled(self, part: StepContext) -> Iterator[Loss]:
        part.labeled.output = self.network(part.labeled.images)
        yield from chain.from_iterable(method.on_labeled(part) for method in self.methods)

    def _of_target(self, part: StepContext) -> Iterator[Loss]:
        if self.forward_target:
            part.unlabeled.output = self.network(part.unlabeled.images)
        yield from chain.from_iterable(method.on_target(part) for method in self.methods)

    def _share_out(self, parts: Sequence[StepContext]) -> None:
        """Set each part's share of the means; a step in one piece needs none."""
        if world_size() == len(parts) == 1:
            return
        counts = [{name: n for method in self.methods for name, n in method.counts(part).items()} for part in parts]
        table = torch.stack([torch.stack([*each.values()]) for each in counts]).double()
        shares = table / all_reduce_sum(table.sum(0)).clamp(min=1)
        for part, row in zip(parts, shares, strict=True):
            part.shares = {
                IMAGES: len(part.labeled.images) / self.batch_size,
                **dict(zip(counts[0], row, strict=True)),
            }

    def _backward(self, part: StepContext, losses: Iterable[Loss], record: dict[str, Tensor]) -> None:
        """Of the sum of weighted losses, each by the part's share; they are recorded without the weight."""
        weighted: list[Tensor] = []
        with self._autocast():
            for loss in losses:
                value = loss.value * part.shares[loss.per] if part.shares else loss.value
                record[loss.name] = record.get(loss.name, 0.0) + value.detach()
                weighted.append(loss.weight * value)
            total = sum(weighted[1:], weighted[0]) if weighted else None
        if total is not None:
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]

    def _update(self, before: Sequence[tuple[Tensor, Tensor]]) -> None:
        """All optimizers step; where the gradients of one overflowed in fp16 none does, and buffers are put back."""
        if self.scaler.is_enabled() and self._overflowed():
            self.scaler.update()
            self.skipped += 1
            for buffer, kept in before:
                buffer.copy_(kept)
            return
        for optimizer in self.optimizers.values():
            if gradients_of(optimizer):  # in fp16 the scaler wants one: a part that begins later has none yet
                self.scaler.step(optimizer)
        self.scaler.update()
        self.skipped = 0
        average_running_statistics(self.network)
        for method in self.methods:
            method.after()

    def _overflowed(self) -> bool:
        """Whether any gradient is not finite, once all are unscaled; the one read of a step in fp16."""
        for optimizer in self.optimizers.values():
            self.scaler.unscale_(optimizer)
        gradients = chain.from_iterable(map(gradients_of, self.optimizers.values()))
        finite = [gradient.isfinite().all() for gradient in gradients]
        return not bool(torch.stack(finite).all())

    def _buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Banks, anchors, running statistics: everything that a step changes without an optimizer, and a copy of it."""
        return [(buffer, buffer.clone()) for module in self._modules() for buffer in module.buffers()]

    def _modules(self) -> list[nn.Module]:
        return [self.network, *(module for method in self.methods for module in method.modules().values())]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not None)

    def state(self) -> dict[str, Any]:
        """State of everything that a step trains or accumulates, for a checkpoint."""
        return {
            "network": self.network.state_dict(),
            **{name: module.state_dict() for method in self.methods for name, module in method.modules().items()},
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }

    def restore(self, saved: dict[str, Any], path: Path) -> None:
        """Restore what :meth:`state` gave, from a checkpoint that was read from ``path``."""
        restore_network(self.network, saved, path)
        for method in self.methods:
            for name, module in method.modules().items():
                module.load_state_dict(saved[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.scaler.load_state_dict(saved["scaler"])
        self.skipped = saved["skipped"]


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    """The gradients that an optimizer's parameters have."""
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


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


def learning_rate_factor(schedule: ScheduleConfig, step: int) -> float:
    """Learning rate of step ``step`` (from 0), relative to the initial one."""
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
