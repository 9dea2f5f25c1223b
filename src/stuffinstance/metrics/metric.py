"""Base of the metrics."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any

from torch import Tensor

from stuffinstance._state import StatefulModule


class Metric(StatefulModule):
    """Base of the metrics: :meth:`update` counts a batch, :meth:`compute` gives the value of all batches so far.

    Calling a metric counts a batch too, and returns the value of that batch alone, as metrics of torchmetrics do.
    """

    @abstractmethod
    def update(self, *batch: Any, **named: Any) -> None:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> Any:
        """The value so far."""

    def _of_batch(self, *batch: Tensor) -> Any:
        """Count a batch; its own value, of this rank alone."""
        alone = copy.deepcopy(self)
        alone.sync = "off"
        alone.reset()
        alone.update(*batch)
        self.update(*batch)
        return alone.compute()
