"""Maximum squares loss on the target's output (MaxSquare)."""

from __future__ import annotations

import stuffinstance as si

from ..config import Weight
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext


class MaxSquareConfig(MethodConfig):
    """Maximum squares, weighted by class and image."""

    weight: Weight = 0.1
    image_wise: bool = True


class MaxSquares(Method):
    """Certainty of the target's output with a gradient that does not grow where it is certain already (MaxSquare)."""

    group, config, rank = "max_square", MaxSquareConfig, 30
    step_rank = 80
    parts = (Part("maxsq", "MaxSquare", "maximum squares loss (MaxSquare)"),)
    losses = {"max_square": "Maximum squares of the target"}
    needs_forward = True

    def __init__(self, config: MaxSquareConfig, setup: Setup) -> None:
        self.weight = config.weight
        self.loss = si.MaxSquareLoss(image_wise=config.image_wise)

    def on_target(self, context: StepContext) -> list[Loss]:
        return [Loss("max_square", self.loss(context.unlabeled.logits()), self.weight)]
