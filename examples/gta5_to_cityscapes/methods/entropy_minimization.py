"""Entropy minimization of the target's output (MinEnt of ADVENT)."""

from __future__ import annotations

import stuffinstance as si

from ..config import Weight
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext


class EntropyConfig(MethodConfig):
    """MinEnt (ADVENT): the mean normalized entropy of the target's output."""

    weight: Weight = 0.001


class EntropyMinimization(Method):
    """The entropy of the target's output is a loss (ADVENT, MinEnt)."""

    group, config, rank = "entropy", EntropyConfig, 20
    step_rank = 70
    parts = (Part("minent", "MinEnt", "entropy of the target's output minimized (ADVENT)"),)
    losses = {"entropy": "Entropy of the target (MinEnt)"}
    needs_forward = True

    def __init__(self, config: EntropyConfig, setup: Setup) -> None:
        self.weight = config.weight
        self.loss = si.EntropyLoss()

    def on_target(self, context: StepContext) -> list[Loss]:
        return [Loss("entropy", self.loss(context.unlabeled.logits()), self.weight)]
