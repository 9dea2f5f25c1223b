"""Class distributions: running mean and diagonal variance of the features of each class (SePiCo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stuffinstance._checks import (
    check_class_ids,
    check_finite,
    check_has_pixels,
    check_label_map,
    check_maps,
    check_on_device,
    check_same_batch,
    checked_fraction,
    checked_ignore_index,
    checked_num_classes,
    checked_positive,
)
from stuffinstance._numerics import add_to_pair, autocast_device, cleared, difference, pair_in, unit_length
from stuffinstance._state import StatefulModule
from stuffinstance.distributed import Sync, gather_rows
from stuffinstance.label_maps import _majority_labels
from stuffinstance.pooling.region_mean import _region_mean
from stuffinstance.regions.region_table import _stuff_regions, count_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def merged_moments(
    moments: Tensor, remainder: Tensor, count: Tensor, rows: Tensor, area: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge of means and variances by counts (Chan et al., 1979), N samples per class at a time.

    .. math:: \\mu' = \\mu + \\sum_i w_i (\\mu_i - \\mu), \\qquad
              \\Sigma' = \\Sigma + \\sum_i w_i \\bigl(\\Sigma_i - \\Sigma + (\\mu_i - \\mu')^2\\bigr)
              + w (\\mu - \\mu')^2

    with the weights :math:`w_i = n_i / (n + \\sum_j n_j)` and :math:`w = n / (n + \\sum_j n_j)`: the mean and the
    variance of all numbers together. They have 48 bits in two float32 numbers (:func:`add_to_pair`), as late batches
    weigh little.

    Args:
        moments: (2, K, D) float32: mean and variance of ``count`` numbers.
        remainder: (2, K, D) float32, what ``moments`` cannot hold.
        count: (K,) int64.
        rows: (N, 2, K, D): means and variances to merge; float64 rows are merged in float64.
        area: (N, K) int64, of how many numbers they are; rows of none may hold any finite number.

    Returns:
        The new ``(moments, remainder, count)``; the arguments are left as they are.

    Example:
        >>> nothing = torch.zeros(2, 1, 1)
        >>> rows = torch.tensor([[[[1.0]], [[0.0]]], [[[4.0]], [[1.0]]]])           # the numbers 1, and 3 and 5
        >>> moments, _, count = merged_moments(nothing, nothing, torch.tensor([0]), rows, torch.tensor([[1], [2]]))
        >>> moments.flatten(), count
        (tensor([3.0000, 2.6667]), tensor([3]))
    """
    total = count + area.sum(0)
    weight, old = ((n.to(rows.dtype) / total.clamp(min=1))[..., None] for n in (area, count))
    apart = difference(rows, moments, remainder)
    step = (weight * apart[:, 0]).sum(0)
    between = (apart[:, 0] - step).square()
    change = (weight * (apart[:, 1] + between)).sum(0) + old * step.square()
    return *add_to_pair(moments, remainder, torch.stack([step, change])), total


class ClassDistributions(StatefulModule):
    """Class distributions (SePiCo, Xie et al., TPAMI 2023): mean and diagonal variance of each class's features.

    Paper: https://arxiv.org/abs/2204.08808. :class:`DistributionContrastLoss` reads them.

    .. math:: \\mu_k = \\frac{1}{n_k} \\sum_{x: y(x) = k} \\hat f(x), \\qquad
              \\Sigma_k = \\frac{1}{n_k} \\sum_{x: y(x) = k} (\\hat f(x) - \\mu_k)^2, \\qquad
              \\hat f = \\frac{f}{\\lVert f \\rVert_2}

    over every cell *x* of a feature map that was given so far, merged by counts exactly: batches,
    images and ranks give the numbers of all cells together. The label *y* of a cell is that of the majority of its
    pixels (:func:`majority_labels`). SePiCo updates them with source images and their ground truth; its features are
    those of the mean teacher behind a projection head.

    An update holds four more maps of the features' size; never a tensor of cells, classes and channels.

    Args:
        num_classes: K.
        feature_dim: D.
        min_fraction: The least fraction of a cell's pixels that its class fills; other cells are ignored (0.75).
        ignore_index: Pixels of this id have no class.
        sync: ``"auto"`` shares cells across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check class ids on a GPU too, and raise for non-finite features; reads from the device.

    Attributes:
        moments: Buffer (2, K, D) float32: mean and variance; zero for a class without a cell.
        remainder: Buffer (2, K, D) float32, what the numbers of ``moments`` cannot hold: late batches weigh little.
            :meth:`moments_in` gives the sum.
        count: Buffer (K,) int64, cells so far.

    The buffers keep their dtypes under ``.half()`` and ``.to(dtype)``, and cannot be averaged as weights are (pass
    ``use_buffers=False`` to ``AveragedModel`` or ``EMAWeightAveraging``). With ``sync="off"`` they are a rank's own:
    ``DistributedDataParallel(..., broadcast_buffers=False)`` then keeps them so.

    Raises:
        TypeError: If ``ignore_index`` is not a whole number.
        ValueError: If a size is below 1, ``min_fraction`` is outside 0 .. 1, ``ignore_index`` is a class, or ``sync``
            is not 'auto' or 'off'.

    Example:
        >>> distributions = ClassDistributions(num_classes=2, feature_dim=2)
        >>> features = torch.tensor([[[[5.0, 3.0, 0.0]], [[0.0, 4.0, 2.0]]]])              # three cells
        >>> distributions.update(features, torch.tensor([[[0, 0, 1]]]))
        >>> distributions.mean
        tensor([[0.8000, 0.4000],
                [0.0000, 1.0000]])
        >>> distributions.variance
        tensor([[0.0400, 0.1600],
                [0.0000, 0.0000]])
    """

    moments: Tensor
    remainder: Tensor
    count: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        *,
        min_fraction: float = 0.75,
        ignore_index: int = 255,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(sync, group, validate_args)
        self.num_classes = checked_num_classes(num_classes)
        self.feature_dim = checked_positive("feature_dim", feature_dim)
        self.min_fraction = checked_fraction("min_fraction", min_fraction)
        self.ignore_index: int = checked_ignore_index(ignore_index, self.num_classes)
        shape = 2, self.num_classes, self.feature_dim
        self._hold("moments", *shape, dtype=torch.float32, kind="buffer")
        self._hold("remainder", *shape, dtype=torch.float32, kind="buffer")
        self._hold("count", self.num_classes, kind="buffer")

    @property
    def filled(self) -> Tensor:
        """(K,) bool: the classes that have a distribution."""
        return self.count > 0

    @property
    def mean(self) -> Tensor:
        """(K, D) float32."""
        return self.moments[0]

    @property
    def variance(self) -> Tensor:
        """(K, D) float32, the mean squared distance to the mean in each channel."""
        return self.moments_in(torch.float32)[1]

    def moments_in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and variance in a floating dtype, (K, D) each: float64 has all that was added up, float32 is rounded."""
        mean, variance = pair_in(dtype, self.moments, self.remainder)
        return mean, variance.clamp(min=0)  # rounding may pass 0

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Update the distributions with a batch, without gradient.

        A cell with a NaN or an infinity never enters and does not count. Under ``torch.distributed`` every rank must
        call this; the images of all ranks enter on all ranks, in rank order.

        Args:
            features: (B, D, h, w); every cell is divided by its L2 norm here.
            labels: Class ids (B, H, W), any integer dtype; a cell gets that of its majority.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right. The distributions are then as
                before.
        """
        classes = self._labels_at(features, labels)
        finite = features.isfinite().all(1)
        regions = _stuff_regions(torch.where(finite, classes, self.ignore_index), range(self.num_classes))
        number, count = regions.region_map, count_rows(regions)
        with torch.autocast(autocast_device(features), enabled=False):
            cells = unit_length(cleared(features, finite), 1)
            means = _region_mean(cells, number, count)  # (B, K, D)
            # Cells of no class are in no region: what is subtracted from them does not matter.
            place = torch.where(classes == self.ignore_index, 0, classes).flatten(1)[:, :, None]
            own = means.gather(1, place.expand(-1, -1, self.feature_dim)).mT
            apart = (cells.flatten(2) - own).reshape(cells.shape)
            variances = _region_mean(apart.square(), number, count)
        rows, area = gather_rows((torch.stack([means, variances], 1), regions.area[:, :, 0]), self.sync, self.group)
        moments, remainder, total = merged_moments(self.moments, self.remainder, self.count, rows, area)
        self.moments.copy_(moments)
        self.remainder.copy_(remainder)
        self.count.copy_(total)

    def _labels_at(self, features: Tensor, labels: Tensor) -> Tensor:
        """Majority labels (B, h, w) of the cells of a feature map.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.
        """
        check_maps("features", features, channels=self.feature_dim)
        check_on_device("features", features, "distributions", self.moments)
        if self.validate_args:
            check_finite("features", features)
        check_label_map("labels", labels)
        check_has_pixels("labels", labels)
        check_same_batch("labels", labels, "features", features)
        check_class_ids("labels", labels, self.num_classes, self.ignore_index, self.validate_args)
        height, width = features.shape[2:]
        return _majority_labels(labels, height, width, self.num_classes, self.min_fraction, self.ignore_index)

    def _settings(self) -> dict[str, Any]:
        return {"num_classes": int(self.num_classes), "feature_dim": int(self.feature_dim)}

    def extra_repr(self) -> str:
        """The shape, for ``print(module)``."""
        return f"num_classes={self.num_classes}, feature_dim={self.feature_dim}, min_fraction={self.min_fraction}"
