"""Parameters that all ranks hold alike: the backward pass that ends a step also sums the gradients over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..ranks.group import world

Losses = Callable[[], "Tensor | None"]


class Replicas:
    """``DistributedDataParallel`` around everything that a step trains.

    It reduces gradients in the backward pass of what went through its own forward, and leaves them alone in all others,
    where they add up on each rank. A step has several backward passes, over several networks; so only the losses of its
    last one are computed in there.

    Attributes:
        factor: What every loss is multiplied by: gradients come back averaged over ranks, and are wanted summed.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.factor = float(world())
        self._together = None
        if world() > 1:
            # Some parameters have all their gradient before the last pass and are not in it.
            self._together = DistributedDataParallel(_Together(parameters), find_unused_parameters=True)

    def last(self, losses: Losses) -> Tensor | None:
        """``losses()``, for the backward pass that ends the step; without a loss one that is always 0, if need be."""
        return losses() if self._together is None else self._together(losses)


class _Together(nn.Module):
    """Holds parameters, and computes whatever it is given; buffers are no business of its own."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.trained = nn.ParameterList(each for each in parameters if each.requires_grad)

    def forward(self, losses: Losses) -> Tensor:
        total = losses()
        return total if total is not None else 0.0 * self.trained[0].sum()
