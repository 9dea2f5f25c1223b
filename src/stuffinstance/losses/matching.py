"""What both matching losses do: pool the regions, find the nearest rows, mask what has no partner."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from stuffinstance._checks import check_callable, check_kind, checked_flag
from stuffinstance.banks import Classifier, InstanceBank, MemoryBank, StuffBank
from stuffinstance.label_maps import resize_labels
from stuffinstance.losses.distances import Between, Distance, DistanceName, nearest_distance, resolve_distance
from stuffinstance.losses.gradient_warning import FEATURES, warn_without_gradient
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
        require_full_bank: bool,
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
        self.require_full_bank = checked_flag("require_full_bank", require_full_bank)

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
        return distance, slot, bank.written > (bank.capacity if self.require_full_bank else 0)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"distance={self.distance_name!r}, require_full_bank={self.require_full_bank}, agreement_filter={self.classifier is not None}"


def stuff_matching_loss(distances: Tensor, used: Tensor) -> Tensor:
    """Sum over the classes that are used, mean over images.

    Args:
        distances: To the nearest source row, (B, C).
        used: Class occurs, has a partner and passed the filter, (B, C) bool.

    Returns:
        A scalar; 0 where nothing is used.

    Example:
        >>> distances = torch.tensor([[1.0, 2.0], [4.0, 8.0]], requires_grad=True)
        >>> stuff_matching_loss(distances, torch.tensor([[True, True], [True, False]]))
        tensor(3.5000, grad_fn=<DivBackward0>)
    """
    warn_without_gradient("stuff matching loss", "distances", distances, FEATURES)
    return _summed(distances, used)


def _summed(distances: Tensor, used: Tensor) -> Tensor:
    return torch.where(used, distances, 0).sum() / max(1, distances.shape[0])


class StuffMatchingLoss(MatchingLoss):
    """Pull each stuff class of a target image to the nearest source row of the class.

    .. math:: \\mathcal{L}_{stf} = \\frac{1}{B} \\sum_i \\sum_b \\min_j d(\\mathcal{A}^b(L_i, f_i), S^b_j)

    over the classes *b* that occur. Paper: :math:`d = \\lVert\\cdot\\rVert_1^2`, sum over images. reference implementation: mean
    over channels of the absolute difference, no square, one image a batch; a class absent from the image can add a
    constant without gradient there, which is not copied here. The mean over images is this library's choice, so that a
    batch equals the mean of its single images.

    Args:
        bank: The :class:`StuffBank` to match against.
        distance: ``"l1_mean"`` (code), ``"l1_squared"`` (paper), ``"l2"``, ``"cosine"``, or a callable of two tensors
            (..., D) that broadcast, which returns (...), smaller for nearer rows: of a similarity, 1 - similarity. A
            callable is tried here on a few small rows of the bank's D.
        require_full_bank: Match a class only after more rows were written than the bank holds (code); else from the first row
            on (paper).
        classifier: Rows (N, D) to logits (N, K): regions that it puts into another class are not matched (code).

    Raises:
        TypeError: If ``bank`` is not such a bank, or ``distance`` is neither a name nor a callable of two tensors.
        ValueError: If ``distance`` has no such name, returns another shape, or is larger for equal rows than for
            different ones.

    Example:
        >>> bank = StuffBank(classes=(0,), feature_dim=1, capacity=2)
        >>> bank.update(torch.tensor([[[[2.0]]]]), torch.tensor([[[0]]]))
        >>> StuffMatchingLoss(bank)(torch.tensor([[[[5.0]]]], requires_grad=True), torch.tensor([[[0]]]))
        tensor(3., grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        bank: StuffBank,
        distance: DistanceName | Between = "l1_mean",
        *,
        require_full_bank: bool = False,
        classifier: Classifier | None = None,
    ) -> None:
        check_kind("bank", bank, StuffBank)
        super().__init__(bank, distance, require_full_bank=require_full_bank, classifier=classifier)

    def of_rows(self, rows: Tensor, regions: Regions) -> Tensor:
        """The loss of stuff regions whose mean features (B, C, D) are already known."""
        distance, _, matchable = self.nearest(rows, regions)
        used = regions.valid & matchable[:, None] & self.trusted(rows, regions)
        return _summed(distance[:, :, 0], used[:, :, 0])


def instance_matching_loss(distances: Tensor, valid: Tensor, matchable: Tensor) -> Tensor:
    """Mean over the regions of a class, sum over classes, mean over images.

    Args:
        distances: To the nearest source row, (B, C, Z).
        valid: There is such a region, (B, C, Z) bool.
        matchable: The class has rows to match, (C,) bool.

    Returns:
        A scalar; 0 where nothing can be matched.

    Example:
        >>> distances = torch.tensor([[[2.0, 4.0, 9.0]]], requires_grad=True)
        >>> instance_matching_loss(distances, torch.tensor([[[True, True, False]]]), torch.tensor([True]))
        tensor(3., grad_fn=<DivBackward0>)
    """
    warn_without_gradient("instance matching loss", "distances", distances, FEATURES)
    return _averaged(distances, valid, matchable)


def _averaged(distances: Tensor, valid: Tensor, matchable: Tensor) -> Tensor:
    used = valid & matchable[:, None]
    per_class = torch.where(used, distances, 0).sum(2) / valid.sum(2).clamp(min=1)
    return per_class.sum() / max(1, distances.shape[0])


class InstanceMatchingLoss(MatchingLoss):
    """Pull each of a target image's largest thing regions to the nearest source instance of its class.

    .. math:: \\mathcal{L}_{ins} = \\frac{1}{B} \\sum_i \\sum_k \\frac{1}{\\lvert R_k \\rvert} \\sum_{r \\in R_k}
              \\min_j d(\\mathcal{I}(r, f_i), S^k_j)

    with :math:`R_k` the bank's ``max_instances`` largest connected regions of class *k*, all of them where there are
    fewer. The text of the paper and the code agree on the largest ten; Eq. 8 as printed has all regions. Distances as
    in :class:`StuffMatchingLoss`. The reference implementation applies no agreement filter to target things.

    Args:
        bank: The :class:`InstanceBank` to match against.
        distance: ``"l1_mean"`` (code), ``"l1_squared"`` (paper), ``"l2"``, ``"cosine"``, or a callable of two tensors
            (..., D) that broadcast, which returns (...), smaller for nearer rows: of a similarity, 1 - similarity. A
            callable is tried here on a few small rows of the bank's D.
        require_full_bank: Match a class only after more rows were written than the bank holds (code); else from the first row
            on (paper).

    Raises:
        TypeError: If ``bank`` is not such a bank, or ``distance`` is neither a name nor a callable of two tensors.
        ValueError: If ``distance`` has no such name, returns another shape, or is larger for equal rows than for
            different ones.

    Example:
        >>> bank = InstanceBank(classes=(5,), feature_dim=1, capacity=4)
        >>> bank.update(torch.tensor([[[[1.0, 9.0]]]]), torch.tensor([[[5, 0]]]))
        >>> features = torch.tensor([[[[2.0, 0.0, 4.0]]]], requires_grad=True)
        >>> InstanceMatchingLoss(bank)(features, torch.tensor([[[5, 0, 5]]]))
        tensor(2., grad_fn=<DivBackward0>)
    """

    def __init__(
        self, bank: InstanceBank, distance: DistanceName | Between = "l1_mean", *, require_full_bank: bool = False
    ) -> None:
        check_kind("bank", bank, InstanceBank)
        super().__init__(bank, distance, require_full_bank=require_full_bank, classifier=None)

    def of_rows(self, rows: Tensor, regions: Regions) -> Tensor:
        """The loss of thing regions whose mean features (B, C * Z, D) are already known."""
        distance, _, matchable = self.nearest(rows, regions)
        return _averaged(distance, regions.valid, matchable)
