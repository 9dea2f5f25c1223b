"""The memory of things: one mean feature per connected region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from stuffinstance.arguments import checked_positive
from stuffinstance.banks.memory import MemoryBank
from stuffinstance.distributed import Sync
from stuffinstance.regions import Regions, instance_regions
from stuffinstance.regions.components import checked_connectivity

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class InstanceBank(MemoryBank):
    """Keeps the mean features of the largest connected regions of each thing class (SIM, Algorithm 1).

    Per image and class the ``max_instances`` largest regions, by falling area, go to slot :math:`c_k \\bmod S`. A
    region that the agreement filter turns away still uses up its place among the largest, as in the released code.

    Args:
        classes: The C thing class ids.
        feature_dim: D.
        capacity: S, slots per class (z·w = 500 in paper and code).
        max_instances: z, regions kept per class and image.
        connectivity: 4 or 8 neighbours (8 in the released code; the paper does not say).
        sync: ``"auto"`` shares rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate: Look for non-finite features before each update and raise; reads from the device.

    Raises:
        ValueError: If ``classes`` repeat, a size is below 1, or ``connectivity`` is not 4 or 8.

    Example:
        >>> import torch
        >>> bank = InstanceBank(classes=(5,), feature_dim=1, capacity=4)
        >>> bank.update(torch.tensor([[[[1.0, 0.0, 3.0, 5.0]]]]), torch.tensor([[[5, 0, 5, 5]]]))
        >>> bank.features[0, :, 0], bank.written
        (tensor([4., 1., 0., 0.]), tensor([2]))
    """

    def __init__(
        self,
        classes: Sequence[int],
        feature_dim: int,
        capacity: int = 500,
        max_instances: int = 10,
        connectivity: Literal[4, 8] = 8,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate: bool = False,
    ) -> None:
        super().__init__(classes, feature_dim, capacity, sync=sync, group=group, validate=validate)
        connectivity = checked_connectivity(connectivity)
        max_instances = checked_positive("max_instances", max_instances)
        self.max_instances = max_instances
        self.connectivity = connectivity

    def regions(self, labels: Tensor) -> Regions:
        """The largest connected regions of each class."""
        return instance_regions(
            labels, self.classes, self.max_instances, connectivity=self.connectivity, ignore_index=None
        )

    def extra_repr(self) -> str:
        """The shape, for ``print(module)``."""
        return f"{super().extra_repr()}, max_instances={self.max_instances}, connectivity={self.connectivity}"
