"""Losses that ask the target's output to be certain."""

from __future__ import annotations

import stuffinstance as si

from ..recipes.settings import EntropyConfig, MaxSquareConfig
from .method import Loss, Method, StepContext


class EntropyMinimization(Method):
    """ADVENT's MinEnt."""

    needs_target = True

    def __init__(self, settings: EntropyConfig) -> None:
        self.weight = settings.weight
        self.loss = si.EntropyLoss()

    def on_target(self, context: StepContext) -> list[Loss]:
        return [Loss("entropy", self.loss(context.unlabeled.logits()), self.weight)]


class MaximumSquares(Method):
    """MaxSquare: the same end with a gradient that does not grow where the output is certain already."""

    needs_target = True

    def __init__(self, settings: MaxSquareConfig) -> None:
        self.weight = settings.weight
        self.loss = si.MaxSquareLoss(image_wise=settings.image_wise)

    def on_target(self, context: StepContext) -> list[Loss]:
        return [Loss("max_square", self.loss(context.unlabeled.logits()), self.weight)]
