"""The memory of stuff: one mean feature per class and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from stuffinstance.banks.memory import MemoryBank
from stuffinstance.distributed import Sync
from stuffinstance.regions import Regions, stuff_regions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class StuffBank(MemoryBank):
    """Keeps the last S mean features of each stuff class (SIM, Eq. 5).

    .. math:: S^b_{n_b \\bmod w} = \\mathcal{A}^b(L_C, f), \\qquad n_b \\leftarrow n_b + 1

    The paper takes slot *i* mod *w* with *i* counting images, and writes only where the class occurs; the released code
    counts the rows of each class, and so does this bank: it always keeps the class's last *w* rows.

    Args:
        classes: The C stuff class ids.
        feature_dim: D.
        capacity: S, slots per class (w = 50 in paper and code).
        sync: ``"auto"`` shares rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate: Look for non-finite features before each update and raise; reads from the device.

    Raises:
        ValueError: If ``classes`` repeat, or ``feature_dim`` or ``capacity`` is below 1.

    Example:
        >>> import torch
        >>> bank = StuffBank(classes=(0,), feature_dim=1, capacity=2)
        >>> bank.update(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0, 0]]]))
        >>> bank.features, bank.written, bank.filled
        (tensor([[[2.],
                 [0.]]]), tensor([1]), tensor([[ True, False]]))
    """

    def __init__(
        self,
        classes: Sequence[int],
        feature_dim: int,
        capacity: int = 50,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate: bool = False,
    ) -> None:
        super().__init__(classes, feature_dim, capacity, sync=sync, group=group, validate=validate)

    def regions(self, labels: Tensor) -> Regions:
        """One region per class: all of its pixels."""
        return stuff_regions(labels, self.classes)
