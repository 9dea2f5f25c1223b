"""Losses that ask the target's output to be certain."""

from __future__ import annotations

import stuffinstance as si

from ...recipes.settings import Entropy, MaxSquare
from .term import Loss, Passes, Term


class EntropyMinimisation(Term):
    """ADVENT's MinEnt."""

    needs_target = True

    def __init__(self, settings: Entropy) -> None:
        self.weight = settings.weight
        self.loss = si.EntropyLoss()

    def on_target(self, passes: Passes) -> list[Loss]:
        return [Loss("entropy", self.loss(passes.unlabelled.logits()), self.weight)]


class MaximumSquares(Term):
    """MaxSquare: the same end with a gradient that does not grow where the output is certain already."""

    needs_target = True

    def __init__(self, settings: MaxSquare) -> None:
        self.weight = settings.weight
        self.loss = si.MaxSquareLoss(image_wise=settings.image_wise)

    def on_target(self, passes: Passes) -> list[Loss]:
        return [Loss("max_square", self.loss(passes.unlabelled.logits()), self.weight)]
