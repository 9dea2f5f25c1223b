"""Stuff and instance matching losses (SIM): distance of target regions to the nearest source rows of their class."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from stuffinstance._checks import check_callable, check_kind, checked_flag
from stuffinstance._warnings import TRAIN_FEATURES, warn_without_gradient
from stuffinstance.banks import Classifier, InstanceBank, MemoryBank, StuffBank
from stuffinstance.losses.distances import Between, Distance, DistanceName, nearest_distance, resolve_distance
from stuffinstance.losses.reduction import Reduction, checked_reduction
from stuffinstance.regions import Regions


class Matches(NamedTuple):
    """Matched pairs of target regions and bank rows, whose distances a matching loss sums.

    Attributes:
        regions: The target regions, Z at most per class.
        used: (B, C, Z) bool. Whether the region counts: it exists, its class has rows to match, and the classifier,
            where there is one, agrees.
        slot: (B, C, Z) int64. The slot of its nearest row in the bank, -1 where it does not count.
        distance: (B, C, Z), differentiable in the features; exactly 0 where it does not count.

    Example:
        >>> bank = StuffBank(classes=(0, 1), feature_dim=1, capacity=2)
        >>> bank.update(torch.tensor([[[[2.0]]]]), torch.tensor([[[0]]]))
        >>> matches = StuffMatchingLoss(bank).matches(torch.tensor([[[[5.0, 7.0]]]]), torch.tensor([[[0, 1]]]))
        >>> matches.slot.tolist(), matches.distance.tolist()                  # class 1 has no row to match
        ([[[0], [-1]]], [[[3.0], [0.0]]])
    """

    regions: Regions
    used: Tensor
    slot: Tensor
    distance: Tensor


class MatchingLoss(nn.Module):
    """Matching loss: distance of target regions to the nearest source rows of their class. Base class of both.

    The bank is read, never written, and is not part of this module's state: whoever updates it saves it.
    """

    def __init__(
        self,
        bank: MemoryBank,
        distance: DistanceName | Between,
        *,
        require_full_bank: bool,
        classifier: Classifier | None,
        reduction: Reduction,
    ) -> None:
        super().__init__()
        resolved, full, classifier = _choices(bank, distance, require_full_bank, classifier)
        # In lists, so that neither becomes a submodule: the bank's and the network's state are saved where they live.
        self._bank = [bank]
        self._classifier = [classifier]
        self.distance_name: str = distance if isinstance(distance, str) else getattr(distance, "__name__", "callable")
        self.distance: Distance = resolved
        self.require_full_bank: bool = full
        self.reduction: Reduction = checked_reduction(reduction)

    @property
    def bank(self) -> MemoryBank:
        """The bank whose rows are matched."""
        return self._bank[0]

    @property
    def classifier(self) -> Classifier | None:
        """Rows to logits for the agreement filter, or None."""
        return self._classifier[0]

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            features: Target features, (B, D, h, w).
            labels: Target labels (B, H, W), any integer dtype, usually the argmax of the logits; resized nearest to
                (h, w). Ids that are not the bank's are ignored.

        Returns:
            A scalar, or (B,) for ``reduction="none"``. Exactly 0, still attached to ``features``, where nothing can be
            matched. A region with a non-finite feature makes it non-finite, so that a gradient scaler or an anomaly
            check sees it.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit.

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        rows, regions = self._pool(features, labels)
        warn_without_gradient("matching loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        return self._of_rows(rows, regions.valid)

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
        distance, slot = _nearest(rows, regions.valid, self.bank, self.distance)
        used = _used(rows, regions.valid, self.bank, self.require_full_bank, self.classifier)
        return Matches(regions, used, torch.where(used, slot, -1), torch.where(used, distance, 0))

    def _pool(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Regions]:
        self.bank._check(features, labels)
        return self.bank._pool(features, labels)

    def _of_rows(self, rows: Tensor, exists: Tensor) -> Tensor:
        choices = self.distance, self.require_full_bank, self._classifier[0]
        return _loss(rows, exists, self._bank[0], *choices, self.reduction)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"distance={self.distance_name!r}, require_full_bank={self.require_full_bank}, "
            f"agreement_filter={self.classifier is not None}, reduction={self.reduction!r}"
        )


def _choices(
    bank: MemoryBank, distance: DistanceName | Between, require_full_bank: bool, classifier: Classifier | None
) -> tuple[Distance, bool, Classifier | None]:
    """The settings of a matching loss, checked."""
    if classifier is not None:
        check_callable("classifier", classifier, "rows (N, D)")
    resolved = resolve_distance(distance, bank.feature_dim, bank.features.device)
    return resolved, checked_flag("require_full_bank", require_full_bank), classifier


def _nearest(rows: Tensor, exists: Tensor, bank: MemoryBank, distance: Distance) -> tuple[Tensor, Tensor]:
    """Distance of each region (rows (B, C * Z, D)) to the nearest row of its class, and the row's slot: (B, C, Z)."""
    batch, classes, per_class = exists.shape
    wanted = exists.transpose(0, 1).flatten(1)  # (C, B * Z)
    found, slot = nearest_distance(_by_class(rows, exists), bank.features, bank.filled, distance, wanted)
    shape = classes, batch, per_class
    return found.reshape(shape).transpose(0, 1), slot.reshape(shape).transpose(0, 1)


def _by_class(rows: Tensor, exists: Tensor) -> Tensor:
    """Rows (B, C * Z, D) of regions (B, C, Z) grouped by class, (C, B * Z, D)."""
    return rows.reshape(*exists.shape, rows.shape[-1]).transpose(0, 1).flatten(1, 2)


def _used(rows: Tensor, exists: Tensor, bank: MemoryBank, full: bool, classifier: Classifier | None) -> Tensor:
    """Which regions count, (B, C, Z) bool: they exist, their class can be matched, and the classifier agrees."""
    used = exists & (bank.written > (bank.capacity if full else 0))[:, None]
    return used if classifier is None else used & bank._agreeing(rows, exists, classifier)


def _loss(
    rows: Tensor,
    exists: Tensor,
    bank: MemoryBank,
    distance: Distance,
    full: bool,
    classifier: Classifier | None,
    reduction: Reduction,
) -> Tensor:
    """SIM's Eq. 6 and 8: the loss of regions that exist (B, C, Z), whose mean features are (B, C * Z, D).

    Of stuff (Eq. 6) Z is 1.
    """
    found, _ = _nearest(rows, exists, bank, distance)
    return _mean_over_regions(found, _used(rows, exists, bank, full, classifier), exists, reduction)


def _mean_over_regions(values: Tensor, used: Tensor, exists: Tensor, reduction: Reduction) -> Tensor:
    """Mean over images, of the sum over classes, of the mean over regions that exist; values (B, C, Z), 0 if unused."""
    per_class = torch.where(used, values, 0).sum(2) / exists.sum(2).clamp(min=1)
    return per_class.sum(1) if reduction == "none" else per_class.sum() / max(1, exists.shape[0])


def _function_form(
    loss: str,
    features: Tensor,
    labels: Tensor,
    bank: MemoryBank,
    distance: DistanceName | Between,
    require_full_bank: bool,
    classifier: Classifier | None,
    reduction: Reduction,
) -> Tensor:
    checked_reduction(reduction)
    choices = _choices(bank, distance, require_full_bank, classifier)
    bank._check(features, labels)
    warn_without_gradient(loss, "features", features, TRAIN_FEATURES, stacklevel=4)
    rows, regions = bank._pool(features, labels)
    return _loss(rows, regions.valid, bank, *choices, reduction)


def stuff_matching_loss(
    features: Tensor,
    labels: Tensor,
    bank: StuffBank,
    *,
    distance: DistanceName | Between = "l1_mean",
    require_full_bank: bool = False,
    classifier: Classifier | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Stuff matching loss (SIM, https://arxiv.org/abs/2003.08040, Eq. 6), the function of :class:`StuffMatchingLoss`.

    Args:
        features: Target features, (B, D, h, w).
        labels: Target labels (B, H, W), any integer dtype; resized nearest to (h, w).
        bank: The :class:`StuffBank` to match against.
        distance: As for :class:`StuffMatchingLoss`. A callable is tried on a few small rows in each call; the module
            does that once.
        require_full_bank: Match a class only after more rows were written than the bank holds.
        classifier: Rows (N, D) to logits (N, K): regions that it puts into another class are not matched.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Returns:
        A scalar, or (B,) for ``reduction="none"``; exactly 0, still attached to ``features``, where nothing can be
        matched.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If ranks, dtypes, sizes or devices do not fit, or no distance has that name.

    Example:
        >>> bank = StuffBank(classes=(0,), feature_dim=1, capacity=2)
        >>> bank.update(torch.tensor([[[[2.0]]]]), torch.tensor([[[0]]]))
        >>> stuff_matching_loss(torch.tensor([[[[5.0]]]], requires_grad=True), torch.tensor([[[0]]]), bank)
        tensor(3., grad_fn=<DivBackward0>)
    """
    check_kind("bank", bank, StuffBank)
    return _function_form(
        "stuff matching loss", features, labels, bank, distance, require_full_bank, classifier, reduction
    )


class StuffMatchingLoss(MatchingLoss):
    """Stuff matching loss (SIM, Eq. 6): each stuff class of a target image to the nearest source row of the class.

    .. math:: \\mathcal{L}_{stf} = \\frac{1}{B} \\sum_i \\sum_b \\min_j d(\\mathcal{A}^b(L_i, f_i), S^b_j)

    over the classes *b* that occur. Paper (https://arxiv.org/abs/2003.08040): :math:`d = \\lVert\\cdot\\rVert_1^2`, sum
    over images. Reference implementation: mean over channels of the absolute difference, no square, one image a batch;
    a class absent from the image can add a constant without gradient there, which is not copied here. The mean over
    images is this library's choice, so that a batch equals the mean of its single images. Function form:
    :func:`stuff_matching_loss`.

    Args:
        bank: The :class:`StuffBank` to match against.
        distance: ``"l1_mean"`` (code), ``"l1_squared"`` (paper), ``"l2"``, ``"cosine"``, or a callable of two tensors
            (..., D) that broadcast, which returns (...), smaller for nearer rows: of a similarity, 1 - similarity. A
            callable is tried here on a few small rows of the bank's D.
        require_full_bank: Match a class only after more rows were written than the bank holds (code); else from the
            first row on (paper).
        classifier: Rows (N, D) to logits (N, K): regions that it puts into another class are not matched (code).
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

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
        reduction: Reduction = "mean",
    ) -> None:
        check_kind("bank", bank, StuffBank)
        super().__init__(
            bank, distance, require_full_bank=require_full_bank, classifier=classifier, reduction=reduction
        )


def instance_matching_loss(
    features: Tensor,
    labels: Tensor,
    bank: InstanceBank,
    *,
    distance: DistanceName | Between = "l1_mean",
    require_full_bank: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Instance matching loss (SIM, https://arxiv.org/abs/2003.08040, Eq. 8), function of :class:`InstanceMatchingLoss`.

    Args:
        features: Target features, (B, D, h, w).
        labels: Target labels (B, H, W), any integer dtype; resized nearest to (h, w).
        bank: The :class:`InstanceBank` to match against.
        distance: As for :func:`stuff_matching_loss`.
        require_full_bank: Match a class only after more rows were written than the bank holds.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Returns:
        A scalar, or (B,) for ``reduction="none"``; exactly 0, still attached to ``features``, where nothing can be
        matched.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If ranks, dtypes, sizes or devices do not fit, or no distance has that name.

    Example:
        >>> bank = InstanceBank(classes=(5,), feature_dim=1, capacity=4)
        >>> bank.update(torch.tensor([[[[1.0, 9.0]]]]), torch.tensor([[[5, 0]]]))
        >>> features = torch.tensor([[[[2.0, 0.0, 4.0]]]], requires_grad=True)
        >>> instance_matching_loss(features, torch.tensor([[[5, 0, 5]]]), bank)
        tensor(2., grad_fn=<DivBackward0>)
    """
    check_kind("bank", bank, InstanceBank)
    return _function_form(
        "instance matching loss", features, labels, bank, distance, require_full_bank, None, reduction
    )


class InstanceMatchingLoss(MatchingLoss):
    """Instance matching loss (SIM, Eq. 8): the largest thing regions to the nearest source instances of their class.

    .. math:: \\mathcal{L}_{ins} = \\frac{1}{B} \\sum_i \\sum_k \\frac{1}{\\lvert R_k \\rvert} \\sum_{r \\in R_k}
              \\min_j d(\\mathcal{I}(r, f_i), S^k_j)

    with :math:`R_k` the bank's ``max_instances`` largest connected regions of class *k*, all of them where there are
    fewer. The text of the paper (https://arxiv.org/abs/2003.08040) and the code agree on the largest ten; Eq. 8 as
    printed has all regions. The reference implementation applies no agreement filter to target things. Function form:
    :func:`instance_matching_loss`.

    Args:
        bank: The :class:`InstanceBank` to match against.
        distance: As for :class:`StuffMatchingLoss`.
        require_full_bank: Match a class only after more rows were written than the bank holds (code); else from the
            first row on (paper).
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

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
        self,
        bank: InstanceBank,
        distance: DistanceName | Between = "l1_mean",
        *,
        require_full_bank: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        check_kind("bank", bank, InstanceBank)
        super().__init__(bank, distance, require_full_bank=require_full_bank, classifier=None, reduction=reduction)
