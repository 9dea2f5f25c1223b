"""How long steps take, and what in them, without a step ever waiting for a GPU to tell.

On a CPU a phase lies between two readings of the clock. On a GPU the host only queues work, and its clock would say how
long queueing took: there a phase lies between two events on the stream, and events are read when the losses are. So a
phase is the time that the stream spent on it or stood still in it: waiting for images counts as far as the GPU
had nothing else to do meanwhile.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..metrics_log import StepCost

Losses = TypeVar("Losses", bound=Iterable[Tensor])
Mark = Any  # a float, or a torch.cuda.Event, which older torch leaves untyped

_STEP = "step"


class StepClock:
    """Adds up the seconds of steps, and of named phases within them.

    Args:
        device: What computes; with None nothing is measured and nothing spent.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.images = 0  # drawn since the last reading; who draws them counts
        self._steps = 0
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._unread: list[tuple[str, Mark, Mark]] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one whole step."""
        with self.phase(_STEP):
            yield
        self._steps += 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around a part of a step; a name may come up several times in it."""
        if self.device is None:
            yield
            return
        begin = self._now()
        yield
        self._keep(name, begin, self._now())

    def forward_and_backward(self, name: str, losses_of: Callable[[Tensor], Losses], features: Tensor) -> Losses:
        """``losses_of(features)``, timed now, and once more when the backward pass comes through it.

        Autograd runs what is ready in the reverse of the order in which it was made, so all that ``losses_of`` made
        runs in one piece: it begins with the first of the losses and ends at the features, of which ``losses_of`` gets
        an alias of its own. Numbers and gradients stay the same, bit for bit.

        Args:
            name: The phase.
            losses_of: What to time; it uses no other tensor that takes a gradient but parameters.
            features: What it differentiates to.
        """
        if self.device is None:
            return losses_of(features)
        alias = features.view_as(features)
        with self.phase(name):
            losses = losses_of(alias)
        begun: list[Mark] = []

        def begin(_: Tensor) -> None:
            if not begun:
                begun.append(self._now())

        def end(_: Tensor) -> None:
            if begun:
                self._keep(name, begun.pop(), self._now())

        for tensor, hook in (*((loss, begin) for loss in losses), (alias, end)):
            if tensor.requires_grad:
                tensor.register_hook(hook)
        return losses

    def read(self) -> StepCost:
        """What was measured since the last reading; on a GPU this waits for the last step to end."""
        for name, begin, end in self._unread:
            end.synchronize()
            self._seconds[name] += begin.elapsed_time(end) / 1e3
        phases = dict(self._seconds)
        cost = StepCost(self._steps, self.images, phases.pop(_STEP, 0.0), phases)
        self.images = self._steps = 0
        self._seconds.clear()
        self._unread.clear()
        return cost

    def _now(self) -> Mark:
        if self.device is None or self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _keep(self, name: str, begin: Mark, end: Mark) -> None:
        if isinstance(begin, float):
            self._seconds[name] += end - begin
        else:
            self._unread.append((name, begin, end))


UNTIMED = StepClock(None)
