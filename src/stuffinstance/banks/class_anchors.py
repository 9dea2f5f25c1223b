"""Category anchors: one running mean feature per class (CAG-UDA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stuffinstance._checks import (
    check_class_ids,
    check_feature_size,
    check_finite,
    check_has_pixels,
    check_label_map,
    check_maps,
    check_on_device,
    check_same_batch,
    checked_ignore_index,
    checked_num_classes,
    checked_number,
    checked_positive,
)
from stuffinstance._numerics import add_to_pair, as_float, autocast_device, difference, pair_in
from stuffinstance._state import StatefulModule
from stuffinstance.distributed import Sync, gather_rows
from stuffinstance.label_maps import _correct_labels, _resize_labels
from stuffinstance.pooling.region_mean import _region_mean
from stuffinstance.regions import Regions
from stuffinstance.regions.region_table import _stuff_regions, count_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def running_mean(
    mean: Tensor, remainder: Tensor, count: Tensor, rows: Tensor, valid: Tensor, max_count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean per class: take N rows per class in, as if one after the other, without a loop.

    .. math:: \\mu \\leftarrow \\frac{n \\mu + x}{n + 1}, \\qquad n \\leftarrow \\min(n + 1, n_{max})

    Once the count has reached its limit, each further row weighs :math:`1 / (n_{max} + 1)` and older rows fade. The
    count before each row is known beforehand, so every row's weight is its own share times what later rows leave of
    it, and all rows are added together, each by its weight times its difference to the mean: rounding is that of the
    step, not of the mean. The mean has 48 bits in two float32 numbers (:func:`add_to_pair`), so small steps are not
    lost.

    Args:
        mean: (K, D) float32.
        remainder: (K, D) float32, what ``mean`` cannot hold.
        count: (K,) int64, at most ``max_count``.
        rows: (N, K, D), in order; float64 rows are added in float64.
        valid: (N, K) bool; other rows may hold anything, do not enter and do not count.
        max_count: Where the count stops.

    Returns:
        The new ``(mean, remainder, count)``; the arguments are left as they are.

    Example:
        >>> rows = torch.tensor([[[2.0]], [[4.0]], [[9.0]]])
        >>> zero, valid = torch.zeros(1, 1), torch.ones(3, 1, dtype=torch.bool)
        >>> running_mean(zero, zero, torch.tensor([0]), rows, valid, max_count=2)
        (tensor([[5.]]), tensor([[0.]]), tensor([2]))
    """
    before = (count + valid.cumsum(0) - 1).clamp(max=max_count).to(rows.dtype)  # (N, K): n when the row comes
    share = torch.where(valid, 1 / (before + 1), 0)
    # (N, K): what the rows behind each leave of it.
    left = torch.cat([(1 - share)[1:].flip(0).cumprod(0).flip(0), share.new_ones(1, share.shape[1])])[: len(share)]
    apart = torch.where(valid[:, :, None], difference(rows, mean, remainder), 0)
    step = ((share * left)[:, :, None] * apart).sum(0)
    return *add_to_pair(mean, remainder, step), (count + valid.sum(0)).clamp(max=max_count)


class CategoryAnchors(StatefulModule):
    """Category anchors (CAG-UDA, Zhang et al., NeurIPS 2019): the mean source feature of every class.

    Target pixels take the class of the nearest (:meth:`assign`). Paper: https://arxiv.org/abs/1910.13049.

    .. math:: A_c \\leftarrow \\frac{n_c A_c + \\mathcal{A}^c(L_C, f)}{n_c + 1}, \\qquad
              n_c \\leftarrow \\min(n_c + 1, 3000)

    once per source image in which at least ``min_pixels`` pixels are class *c* in ground truth and prediction
    (:math:`L_C`, :func:`correct_labels`), with :math:`\\mathcal{A}^c` their mean feature. The paper's anchor is the
    centroid of all source features of a class; the mean of per-image means, the least number of pixels and the count
    that stops growing are the reference implementation's, and this class follows the code. Within a stage of training
    the anchors are fixed: update them before it, with the network that the stage starts from.

    Args:
        num_classes: K.
        feature_dim: D.
        min_pixels: Fewer pixels than this of a class in an image, at feature resolution, are ignored (10).
        max_count: Where the count stops; from then on a new image weighs 1 / (``max_count`` + 1) (3000).
        ignore_index: Pixels of this id have no class.
        sync: ``"auto"`` shares rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check class ids on a GPU too, and raise for non-finite features; reads from the device.

    Attributes:
        anchors: Buffer (K, D) float32; zero for a class without one.
        remainder: Buffer (K, D) float32, what the anchors' float32 numbers cannot hold: thousands of small steps add
            up, in 48 bits together. :meth:`anchors_in` gives the sum.
        count: Buffer (K,) int64, images that entered, at most ``max_count``.

    The buffers keep their dtypes under ``.half()`` and ``.to(dtype)``, and cannot be averaged as weights are (pass
    ``use_buffers=False`` to ``AveragedModel`` or ``EMAWeightAveraging``). With ``sync="off"`` they are a rank's own:
    ``DistributedDataParallel(..., broadcast_buffers=False)`` then keeps them so.

    Raises:
        TypeError: If ``ignore_index`` is not a whole number.
        ValueError: If a size is below 1, ``ignore_index`` is a class, or ``sync`` is not 'auto' or 'off'.

    Example:
        >>> anchors = CategoryAnchors(num_classes=2, feature_dim=1, min_pixels=1)
        >>> anchors.update(torch.tensor([[[[1.0, 3.0, 8.0]]]]), torch.tensor([[[0, 0, 1]]]))
        >>> anchors.anchors[:, 0], anchors.count
        (tensor([2., 8.]), tensor([1, 1]))
        >>> anchors.assign(torch.tensor([[[[0.0, 4.5, 7.0]]]]))
        tensor([[[  0, 255,   1]]])
    """

    anchors: Tensor
    remainder: Tensor
    count: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        *,
        min_pixels: int = 10,
        max_count: int = 3000,
        ignore_index: int = 255,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(sync, group, validate_args)
        self.num_classes = checked_num_classes(num_classes)
        self.feature_dim = checked_positive("feature_dim", feature_dim)
        self.min_pixels = checked_positive("min_pixels", min_pixels)
        self.max_count = checked_positive("max_count", max_count)
        self.ignore_index: int = checked_ignore_index(ignore_index, self.num_classes)
        self._hold("anchors", self.num_classes, self.feature_dim, dtype=torch.float32, kind="buffer")
        self._hold("remainder", self.num_classes, self.feature_dim, dtype=torch.float32, kind="buffer")
        self._hold("count", self.num_classes, kind="buffer")

    @property
    def filled(self) -> Tensor:
        """(K,) bool: the classes that have an anchor."""
        return self.count > 0

    def anchors_in(self, dtype: torch.dtype) -> Tensor:
        """The anchors in a floating dtype, (K, D): float64 has all that was added up, float32 is rounded."""
        return pair_in(dtype, self.anchors, self.remainder)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        """Update the anchors with a batch of source images, image by image, without gradient.

        A mean with a NaN or an infinity never enters and does not count. Under ``torch.distributed`` every rank must
        call this; the images of all ranks enter on all ranks, in rank order.

        Args:
            features: Source features, (B, D, h, w).
            labels: Ground truth (B, H, W), any integer dtype; resized nearest.
            logits: (B, K, h, w): pixels that they put into another class do not count. None takes all pixels of
                ``labels``, for instance where :func:`correct_labels` was there already.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right. The anchors are then as before.
        """
        rows, regions = self._pool(features, labels, logits)  # (B, K, D)
        # In the buffer's own dtype: what overflows there is not finite either.
        valid = (regions.area[:, :, 0] >= self.min_pixels) & rows.to(self.anchors.dtype).isfinite().all(2)
        rows, valid = gather_rows((rows, valid), self.sync, self.group)
        mean, remainder, count = running_mean(self.anchors, self.remainder, self.count, rows, valid, self.max_count)
        self.anchors.copy_(mean)
        self.remainder.copy_(remainder)
        self.count.copy_(count)

    @torch.no_grad()
    def assign(self, features: Tensor, margin: float = 2.5) -> Tensor:
        """Active pixels of CAG-UDA: the class of the nearest anchor, where it is nearer than the second by a margin.

        .. math:: d_c = \\lVert A_c - f \\rVert_2, \\qquad
                  \\hat y = \\operatorname{argmin}_c d_c \\text{ if } d_{second} - d_{first} \\ge margin

        A class without an anchor is not a candidate. Where fewer than two classes have one, no pixel is
        active (this library's choice; so is ignoring pixels that are not finite).

        Args:
            features: Target features, (B, D, h, w), of the frozen network of the stage.
            margin: 0 or more, in the features' own unit (2.5; a setting of the stage).

        Returns:
            Class ids, (B, h, w) int64; ``ignore_index`` where a pixel is not active.

        Raises:
            ValueError: If ``features`` do not fit the anchors, or ``margin`` is below 0.
        """
        self._check_features(features)
        margin = checked_number("margin", margin, "a distance of 0 or more", least=0)
        with torch.autocast(autocast_device(features), enabled=False):
            pixels = as_float(features).flatten(2).transpose(1, 2)  # (B, P, D)
            # Not through a matrix product: its cancellation would move the margin.
            distance = torch.cdist(
                pixels, self.anchors_in(pixels.dtype)[None], compute_mode="donot_use_mm_for_euclid_dist"
            ).masked_fill(~self.filled, torch.inf)  # (B, P, K)
        first, nearest = distance.min(2)
        second = distance.scatter(2, nearest[:, :, None], torch.inf).amin(2)
        active = (second - first >= margin) & second.isfinite()
        labels = torch.where(active, nearest, self.ignore_index)
        return labels.view(features.shape[0], *features.shape[2:])

    def _pool(self, features: Tensor, labels: Tensor, logits: Tensor | None) -> tuple[Tensor, Regions]:
        """Mean features (B, K, D) and the regions they are of: the pixels of each class that logits agree on."""
        regions = _stuff_regions(self._labels_at(features, labels, logits), range(self.num_classes))
        return _region_mean(features, regions.region_map, count_rows(regions)), regions

    def _labels_at(self, features: Tensor, labels: Tensor, logits: Tensor | None) -> Tensor:
        """Labels (B, h, w) at the features' size; with logits only where their argmax agrees, else ``ignore_index``.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.
        """
        self._check_features(features)
        check_label_map("labels", labels)
        check_has_pixels("labels", labels)
        check_same_batch("labels", labels, "features", features)
        check_class_ids("labels", labels, self.num_classes, self.ignore_index, self.validate_args)
        if logits is not None:
            check_maps("logits", logits, channels=self.num_classes, channel_name="K")
            check_same_batch("logits", logits, "features", features)
            check_feature_size("logits", logits, features)
            labels = _correct_labels(labels, logits, self.ignore_index)
        return _resize_labels(labels, features.shape[2], features.shape[3])

    def _settings(self) -> dict[str, Any]:
        return {"num_classes": int(self.num_classes), "feature_dim": int(self.feature_dim)}

    def _check_features(self, features: Tensor) -> None:
        check_maps("features", features, channels=self.feature_dim)
        check_on_device("features", features, "anchors", self.anchors)
        if self.validate_args:
            check_finite("features", features)

    def extra_repr(self) -> str:
        """The shape, for ``print(module)``."""
        return (
            f"num_classes={self.num_classes}, feature_dim={self.feature_dim}, min_pixels={self.min_pixels}, "
            f"max_count={self.max_count}"
        )
