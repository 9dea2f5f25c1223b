"""What both matching losses do: pool the regions, find the nearest rows, mask what has no partner."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from stuffinstance.arguments import check_callable, checked_flag
from stuffinstance.banks import Classifier, MemoryBank
from stuffinstance.label_maps import resize_labels
from stuffinstance.losses.without_gradient import FEATURES, warn_without_gradient
from stuffinstance.matching import Between, Distance, DistanceName, nearest_distance, resolve_distance
from stuffinstance.pooling import region_mean
from stuffinstance.regions import Regions


class Matches(NamedTuple):
    """Which bank row each region of a batch is drawn to: what a matching loss sums, before it is summed.

    Attributes:
        regions: The target regions, Z at most per class.
        used: (B, C, Z) bool. Whether the region counts: it exists, its class has rows to match, and the classifier,
            where there is one, agrees.
        slot: (B, C, Z) int64. The slot of its nearest row in the bank, -1 where it does not count.
        distance: (B, C, Z), differentiable in the features; exactly 0 where it does not count.
    """

    regions: Regions
    used: Tensor
    slot: Tensor
    distance: Tensor


class MatchingLoss(nn.Module, ABC):
    """Distance of target regions to the nearest source rows of their class.

    The bank is read, never written, and is not part of this module's state: whoever updates it saves it.
    """

    def __init__(
        self,
        bank: MemoryBank,
        distance: DistanceName | Between,
        *,
        warm_up: bool,
        classifier: Classifier | None,
    ) -> None:
        super().__init__()
        if classifier is not None:
            check_callable("classifier", classifier, "rows (N, D)")
        # In lists, so that neither becomes a submodule: the bank's and the network's state are saved where they live.
        self._bank = [bank]
        self._classifier = [classifier]
        self.distance_name: str = distance if isinstance(distance, str) else getattr(distance, "__name__", "callable")
        self.distance: Distance = resolve_distance(distance, bank.feature_dim, bank.features.device)
        self.warm_up = checked_flag("warm_up", warm_up)

    @property
    def bank(self) -> MemoryBank:
        """The bank whose rows are matched."""
        return self._bank[0]

    @property
    def classifier(self) -> Classifier | None:
        """Rows to logits for the agreement filter, or None."""
        return self._classifier[0]

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Pool the regions of ``labels`` and match them.

        Args:
            features: Target features, (B, D, h, w).
            labels: Target labels (B, H, W), any integer dtype, usually the argmax of the logits; resized nearest to
                (h, w). Ids that are not the bank's are passed over.

        Returns:
            A scalar: the mean over images of the single-image loss. Exactly 0, still attached to ``features``, where
            nothing can be matched. A region with a non-finite feature makes it non-finite, so that a gradient scaler
            or an anomaly check sees it.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        pooled = self._pool(features, labels)
        warn_without_gradient("matching loss", "features", features, FEATURES, self, stacklevel=5)
        return self.of_rows(*pooled)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, labels: Tensor) -> Tensor: ...

    def matches(self, features: Tensor, labels: Tensor) -> Matches:
        """The pairs of regions and bank rows whose distances :meth:`forward` sums.

        Args:
            features: Target features, (B, D, h, w).
            labels: Target labels (B, H, W), as for :meth:`forward`.

        Returns:
            :class:`Matches`.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit.
        """
        rows, regions = self._pool(features, labels)
        distance, slot, matchable = self.nearest(rows, regions)
        used = regions.valid & matchable[:, None] & self.trusted(rows, regions)
        return Matches(regions, used, torch.where(used, slot, -1), torch.where(used, distance, 0))

    @abstractmethod
    def of_rows(self, rows: Tensor, regions: Regions) -> Tensor:
        """The loss of regions whose mean features (B, R, D) are already known."""

    def trusted(self, rows: Tensor, regions: Regions) -> Tensor:
        """Which regions the classifier puts into their own class, (B, C, Z) bool; without one all that exist."""
        if self.classifier is None:
            return regions.valid
        return self.bank.agreeing(rows, regions, self.classifier)

    def _pool(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Regions]:
        self.bank.check(features, labels)
        regions = self.bank.regions(resize_labels(labels, (features.shape[2], features.shape[3])))
        return region_mean(features, regions), regions

    def nearest(self, rows: Tensor, regions: Regions) -> tuple[Tensor, Tensor, Tensor]:
        """Distance to the nearest row, its slot, and whether the class can be matched: twice (B, C, Z), and (C,)."""
        bank = self.bank
        batch, classes, per_class = regions.valid.shape
        grouped = rows.reshape(batch, classes, per_class, bank.feature_dim).transpose(0, 1).flatten(1, 2)  # (C, B*Z, D)
        wanted = regions.valid.transpose(0, 1).flatten(1)  # (C, B*Z)
        found = nearest_distance(grouped, bank.features, bank.filled, self.distance, wanted)
        distance, slot = (each.reshape(classes, batch, per_class).transpose(0, 1) for each in found)
        return distance, slot, bank.written > (bank.capacity if self.warm_up else 0)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"distance={self.distance_name!r}, warm_up={self.warm_up}, agreement_filter={self.classifier is not None}"
        )
