"""Region contrast loss: target regions to the nearest source rows of their class, away from those of other classes."""

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from stuffinstance._checks import (
    check_choice,
    check_has_pixels,
    check_kind,
    check_on_device,
    check_same_batch,
    check_scores,
    checked_divisor,
    checked_fraction,
    checked_positive,
    may_read,
)
from stuffinstance._numerics import as_float, autocast_device
from stuffinstance._warnings import TRAIN_FEATURES, warn_without_gradient
from stuffinstance.banks import MemoryBank
from stuffinstance.label_maps import _resize_labels
from stuffinstance.losses.distances import (
    Between,
    Distance,
    DistanceName,
    nearest_distance,
    nearest_distances,
)
from stuffinstance.losses.matching import _by_class, _choices, _mean_over_regions, _nearest, _used
from stuffinstance.losses.reduction import Reduction, checked_reduction
from stuffinstance.pooling.region_mean import _region_mean
from stuffinstance.regions import Regions, count_rows

Positives = Literal["nearest", "top_k", "all"]


class RegionContrastLoss(nn.Module):
    """Region contrast loss, the contrastive form of SIM's matching: regions to rows of their class, not of others.

    .. math:: \\mathcal{L} = \\frac{1}{B} \\sum_i \\sum_k \\frac{1}{\\lvert R_k \\rvert} \\sum_{r \\in R_k}
              \\frac{1}{\\lvert P_r \\rvert} \\sum_{p \\in P_r} \\Bigl[ d(r, p) + \\beta\\, \\tau \\log \\Bigl(
              e^{-d(r, p) / \\tau} + \\sum_{c \\ne k} e^{-\\min_j d(r, S^c_j) / \\tau} \\Bigr) \\Bigr]

    with :math:`R_k` the regions of class *k* that count, :math:`P_r` the positives of a region among the rows of its
    class, :math:`d(r, S)` the distance of its mean feature to a row, and :math:`\\beta` ``repel``. Negatives are the
    nearest row of each other class, so that neither the capacity of a bank nor how far it is filled weighs a class.

    The two ends are known losses. :math:`\\beta = 0` with the nearest row as the positive is SIM's matching loss
    (https://arxiv.org/abs/2003.08040, Eq. 8; Eq. 6 for a :class:`StuffBank`), whatever the temperature.
    :math:`\\beta = 1` is :math:`\\tau` times InfoNCE (https://arxiv.org/abs/1807.03748) of the scores :math:`-d`:
    with the nearest row as the positive, the cross-entropy of the classifier that takes the class of the nearest row.
    The factor :math:`\\tau` keeps the gradient's size that of the distance, whatever the temperature. In between, the
    loss is at least :math:`(1 - \\beta)\\, d`. A region whose class alone has rows has :math:`(1 - \\beta)\\, d`. No
    paper has this loss; the contrast of pixels with bank rows is SePiCo's (:class:`BankContrastLoss`).

    Memory, with N = B·C·Z regions at most and K classes of the banks: two tensors (K, N, S) and two (K, N, D); for
    ``"top_k"`` two (N, ``top_k``, D), for ``"all"`` a copy of the bank.

    Args:
        bank: The :class:`InstanceBank` whose connected regions are taken and whose rows they are pulled to; or a
            :class:`StuffBank`, whose regions are all pixels of a class.
        temperature: :math:`\\tau`.
        distance: *d*, as for :class:`StuffMatchingLoss`. ``"cosine"`` is that of L2-normalized features; with another
            distance the temperature has to fit the size of the features.
        positives: The ``"nearest"`` row of the class, the ``"top_k"`` nearest, or ``"all"`` rows (of the cosine alone,
            which is a matrix product).
        top_k: How many rows ``"top_k"`` takes, fewer where the class has fewer.
        repel: :math:`\\beta`, 0 to 1: the weight of the other classes.
        negatives: A second bank whose rows repel too: the :class:`StuffBank`, so that things are pushed from stuff.
        min_area: A region of fewer pixels of the feature map does not count.
        min_confidence: A region whose mean confidence is lower does not count; see :meth:`forward`.
        require_full_bank: Match a class only after more rows were written than the bank holds (SIM's code). Other
            classes repel from their first row on.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If a number is out of its range, a name is unknown, ``"all"`` is asked of another distance than the
            cosine, or ``negatives`` has another D.

    Example:
        >>> bank = InstanceBank(classes=(5, 6), feature_dim=1, capacity=4)
        >>> bank.update(torch.tensor([[[[1.0, 7.0]]]]), torch.tensor([[[5, 6]]]))
        >>> features, labels = torch.tensor([[[[3.0]]]], requires_grad=True), torch.tensor([[[5]]])
        >>> RegionContrastLoss(bank, 1.0, "l1_mean")(features, labels)               # log(1 + e^(2 - 4))
        tensor(0.1269, grad_fn=<DivBackward0>)
        >>> RegionContrastLoss(bank, distance="l1_mean", repel=0.0)(features, labels)   # SIM's
        tensor(2., grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        bank: MemoryBank,
        temperature: float = 0.1,
        distance: DistanceName | Between = "cosine",
        *,
        positives: Positives = "nearest",
        top_k: int = 5,
        repel: float = 1.0,
        negatives: MemoryBank | None = None,
        min_area: int = 1,
        min_confidence: float = 0.0,
        require_full_bank: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        for name, each in {"bank": bank, **({} if negatives is None else {"negatives": negatives})}.items():
            check_kind(name, each, MemoryBank, "a StuffBank or an InstanceBank")
        if negatives is not None and negatives.feature_dim != bank.feature_dim:
            raise ValueError(
                f"negatives must have the bank's feature_dim D = {bank.feature_dim}, got D = {negatives.feature_dim}."
            )
        check_choice("positives", positives, get_args(Positives))
        resolved, full, _ = _choices(bank, distance, require_full_bank, None)
        if positives == "all" and distance != "cosine":
            raise ValueError(
                "positives must be 'nearest' or 'top_k' with this distance, got 'all': distances to all rows are a "
                "matrix product for distance='cosine' alone. Pass that, or positives='top_k'."
            )
        # In a tuple, so that neither becomes a submodule: their state is saved where they live.
        self._banks: tuple[MemoryBank, ...] = (bank,) if negatives is None else (bank, negatives)
        self.temperature = checked_divisor("temperature", temperature)
        self.distance_name: str = distance if isinstance(distance, str) else getattr(distance, "__name__", "callable")
        self.distance: Distance = resolved
        self.positives: Positives = positives
        self.top_k = checked_positive("top_k", top_k)
        self.repel = checked_fraction("repel", repel)
        self.min_area = checked_positive("min_area", min_area)
        self.min_confidence = checked_fraction("min_confidence", min_confidence)
        self.require_full_bank: bool = full
        self.reduction: Reduction = checked_reduction(reduction)

    @property
    def bank(self) -> MemoryBank:
        """The bank whose rows regions are pulled to."""
        return self._banks[0]

    @property
    def negatives(self) -> MemoryBank | None:
        """The second bank whose rows repel, or None."""
        return self._banks[1] if len(self._banks) > 1 else None

    def forward(self, features: Tensor, labels: Tensor, confidence: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            features: Target features, (B, D, h, w).
            labels: Target labels (B, H, W), any integer dtype: pseudo-labels, or the argmax of the logits; resized
                nearest to (h, w). Ids that are not the bank's are ignored.
            confidence: Of each pixel's label, (B, H', W') within 0 .. 1, such as a mean teacher's
                ``probabilities.amax(1)``; resized nearest. Regions whose mean is below ``min_confidence`` do not count.
                None: all regions do, whatever ``min_confidence``.

        Returns:
            A scalar, or (B,) for ``reduction="none"``; float32 (float64 for float64 features). Exactly 0, still
            attached to ``features``, where no region counts. A region that counts and has a non-finite feature
            makes it non-finite, so that a gradient scaler or an anomaly check sees it.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If ranks, dtypes, sizes or devices do not fit, or a confidence is outside 0 .. 1 (checked on a
                CPU only).

        Warns:
            UserWarning: Once, if ``features`` carry no gradient while gradient mode is on and the loss is in training
                mode: it then trains nothing.
        """
        self.bank._check(features, labels)
        if self.negatives is not None:
            check_on_device("features", features, "bank of negatives", self.negatives.features)
        if confidence is not None:
            check_scores("confidence", confidence)
            check_has_pixels("confidence", confidence)
            check_same_batch("confidence", confidence, "features", features)
            _check_range(confidence)
        warn_without_gradient("region contrast loss", "features", features, TRAIN_FEATURES, self, stacklevel=5)
        rows, regions = self.bank._pool(features, labels)
        exists = self._counted(regions, confidence)
        rows = torch.where(exists.flatten(1)[:, :, None], rows, 0)
        used = _used(rows, exists, self.bank, self.require_full_bank, None)
        with torch.autocast(autocast_device(features), enabled=False):
            return _mean_over_regions(self._of_rows(rows, exists), used, exists, self.reduction)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, labels: Tensor, confidence: Tensor | None = None) -> Tensor: ...

    @torch.no_grad()
    def _counted(self, regions: Regions, confidence: Tensor | None) -> Tensor:
        """The regions that are large and confident enough, (B, C, Z) bool."""
        counted = regions.valid & (regions.area >= self.min_area)
        if confidence is None:
            return counted
        confidence = _resize_labels(confidence, *regions.region_map.shape[1:])
        means = _region_mean(as_float(confidence)[:, None], regions.region_map, count_rows(regions))
        return counted & (means.view_as(counted) >= self.min_confidence)

    def _of_rows(self, rows: Tensor, exists: Tensor) -> Tensor:
        """The loss of each region (B, C, Z), of rows (B, C * Z, D); meaningless where its class has no row."""
        positive, is_row = self._positive(rows, exists)  # (B, C, Z, P)
        losses = positive
        if self.repel:
            scores = torch.logaddexp(-positive / self.temperature, self._negative(rows, exists)[..., None])
            losses = positive + self.repel * self.temperature * scores
        return torch.where(is_row, losses, 0).sum(3) / is_row.sum(3).clamp(min=1)

    def _positive(self, rows: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        """Distances to the positives of each region, (B, C, Z, P), and which of them there are, (1, C, 1, P)."""
        bank = self.bank
        if self.positives == "nearest":
            nearest = _nearest(rows, exists, bank, self.distance)[0][..., None]
            return nearest, torch.ones_like(nearest[:1, :, :1], dtype=torch.bool)
        grouped = _by_class(rows, exists)
        if self.positives == "all":
            found, count = 1 + self.distance.ranking(grouped, bank.features.to(grouped.dtype)), bank.capacity
        else:
            count = min(self.top_k, bank.capacity)
            found = nearest_distances(grouped, bank.features, bank.filled, self.distance, count)
        batch, classes, per_class = exists.shape
        # The filled slots are the first ones, and the nearest rows come first.
        return found.reshape(classes, batch, per_class, count).transpose(0, 1), bank.filled[None, :, None, :count]

    def _negative(self, rows: Tensor, exists: Tensor) -> Tensor:
        """Logarithm of the sum over other classes of exp(-distance to their nearest row / temperature), (B, C, Z)."""
        own = self.bank._class_ids[:, None].expand_as(exists).flatten()  # (N,)
        flat, there = rows.flatten(0, 1), exists.flatten()
        found, other = [], []
        for bank in self._banks:
            other.append((bank._class_ids[:, None] != own) & (bank.written > 0)[:, None])  # (K, N)
            each = flat.expand(len(bank.classes), -1, -1)
            found.append(nearest_distance(each, bank.features, bank.filled, self.distance, other[-1] & there)[0])
        scores = -torch.cat(found) / self.temperature
        return scores.masked_fill(~torch.cat(other), torch.finfo(scores.dtype).min).logsumexp(0).view_as(exists)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        count = f", top_k={self.top_k}" if self.positives == "top_k" else ""
        return (
            f"temperature={self.temperature}, distance={self.distance_name!r}, positives={self.positives!r}{count}, "
            f"repel={self.repel}, min_area={self.min_area}, min_confidence={self.min_confidence}, "
            f"require_full_bank={self.require_full_bank}, reduction={self.reduction!r}"
        )


def _check_range(confidence: Tensor) -> None:
    """Require 0 .. 1; looks only where reading is free. Half precision may carry a probability a little beyond 1."""
    if not (may_read(confidence) and confidence.numel()):
        return
    lowest, highest = (float(bound) for bound in torch.aminmax(confidence.detach()))
    if not (lowest >= 0 and highest <= 1 + 1e-2):
        raise ValueError(
            f"confidence must be within 0..1, got values from {lowest:.4g} to {highest:.4g}. "
            "For logits pass logits.softmax(1).amax(1)."
        )
