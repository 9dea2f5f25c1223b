"""Class center distance (FADA): the spread of a class relative to the distance of the other classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._checks import (
    check_can_move,
    check_class_ids,
    check_has_pixels,
    check_kind,
    check_label_map,
    check_maps,
    check_same_batch,
    checked_num_classes,
    checked_positive,
    optional_ignore_index,
)
from stuffinstance._numerics import add_to_pair, difference, on_cpu, pair_on_cpu
from stuffinstance._state import Metric
from stuffinstance.distributed import Sync, gather_rows
from stuffinstance.label_maps import _resize_labels
from stuffinstance.pooling.region_mean import _region_mean
from stuffinstance.regions.region_table import _stuff_regions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_NUMBERS = 2**22  # of one block of differences between centers


class _Spread(NamedTuple):
    """Pixels (..., K) int64, their mean (..., K, D), sum of squared distances to it (..., K)."""

    pixels: Tensor
    centers: Tensor
    scatter: Tensor


def class_center_distance(features: Tensor, target: Tensor, num_classes: int, ignore_index: int | None = 255) -> Tensor:
    """Class center distance of a batch (FADA, https://arxiv.org/abs/2007.09222, Eq. 9); smaller is better.

    .. math:: CCD(i) = \\frac{1}{K-1} \\sum_{j \\ne i}
              \\frac{\\frac{1}{\\lvert S_i \\rvert} \\sum_{x \\in S_i} \\lVert x - \\mu_i \\rVert^2}
                   {\\lVert \\mu_i - \\mu_j \\rVert}

    with :math:`S_i` all pixels of class *i* in the batch and :math:`\\mu_i` their mean. A class without a pixel has no
    center: it is NaN itself, and *K* counts, and *j* runs over, the classes that are present (this library's choice;
    for all classes present it is the paper's formula). With one class alone everything is NaN. The mean over classes
    is ``distances.nanmean()``, each present class counting the same. The unit is that of the features, so only numbers
    of one kind of feature can be compared.

    Args:
        features: (B, D, h, w). Pixels with a NaN or an infinity are ignored.
        target: True class ids (B, H, W), any integer dtype; resized nearest to (h, w).
        num_classes: K.
        ignore_index: Pixels of this id are ignored; not one of the K classes. None where all count.

    Returns:
        (K,) float32 (float64 for float64 features), without gradient. Where two centers are the same it is infinite,
        or NaN for classes that also have no spread.

    Raises:
        TypeError: If an argument is not a tensor, or ``num_classes`` or ``ignore_index`` is not a whole number.
        ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right, or ``ignore_index`` is a class.

    Example:
        >>> features = torch.tensor([[[[1.0, 3.0, 6.0]]]])         # centers 2 and 6, 4 apart
        >>> class_center_distance(features, torch.tensor([[[0, 0, 2]]]), num_classes=3)
        tensor([0.2500,    nan, 0.0000])
    """
    num_classes = checked_num_classes(num_classes)
    ignore_index = optional_ignore_index(ignore_index, num_classes)
    return _distance(_pooled(_spread_per_image(features, target, num_classes, ignore_index)))


class ClassCenterDistance(Metric):
    """Class center distance of a whole data set, in one pass (FADA, https://arxiv.org/abs/2007.09222, Eq. 9).

    The module form of :func:`class_center_distance`.
    Centers move while images come in, yet no second pass is needed: a part's sum of squared distances to its own
    center becomes that to the common one by adding :math:`n \\lVert \\mu_{part} - \\mu \\rVert^2`. Memory is 2 K·D
    numbers, whatever the size of the data set.

    **Absent classes** are NaN, and no other class's distance depends on them; the mean over classes is
    ``distances.nanmean()``. **Ignored pixels** count nowhere.

    Args:
        num_classes: K.
        feature_dim: D.
        ignore_index: Pixels of this id are ignored; not one of the K classes. None where all count.
        sync: ``"auto"`` joins the pixels of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.

    Attributes:
        pixels: (K,) int64, pixels of each class. As the others a rank's own: saved, but not a buffer.
        centers: (2, K, D) float32, their mean in 48 bits: the rounded number, and what it cannot hold.
        scatter: (2, K) float32, the sum of their squared distances to it, likewise.

    Raises:
        TypeError: If a size or ``ignore_index`` is not a whole number.
        ValueError: If a size is below 1, ``ignore_index`` is a class, or ``sync`` is not 'auto' or 'off'.

    Example:
        >>> distance = ClassCenterDistance(num_classes=2, feature_dim=1)
        >>> distance.update(torch.tensor([[[[1.0, 6.0]]]]), torch.tensor([[[0, 1]]]))
        >>> distance.update(torch.tensor([[[[3.0, 6.0]]]]), torch.tensor([[[0, 1]]]))
        >>> distance.compute()
        tensor([0.2500, 0.0000], dtype=torch.float64)
    """

    pixels: Tensor
    centers: Tensor
    scatter: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        ignore_index: int | None = 255,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(sync, group)
        self.num_classes = checked_num_classes(num_classes)
        self.feature_dim = checked_positive("feature_dim", feature_dim)
        self.ignore_index = optional_ignore_index(ignore_index, self.num_classes)
        self._hold("pixels", self.num_classes)
        self._hold("centers", 2, self.num_classes, self.feature_dim, dtype=torch.float32)
        self._hold("scatter", 2, self.num_classes, dtype=torch.float32)

    def update(self, features: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            features: (B, D, h, w). Pixels with a NaN or an infinity are ignored.
            target: True class ids (B, H, W), any integer dtype; resized nearest to (h, w).

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.
        """
        check_maps("features", features, channels=self.feature_dim)
        check_can_move("features", features, "centers", self.centers)
        part = _pooled(_spread_per_image(features, target, self.num_classes, self.ignore_index))
        pixels, centers, scatter = (each.to(self.pixels.device) for each in part)
        apart = difference(centers, self.centers[0], self.centers[1])
        share = pixels.to(apart.dtype) / (self.pixels + pixels).clamp(min=1).to(apart.dtype)
        moved = self.pixels.to(apart.dtype) * share * apart.square().sum(1)  # n m / (n + m) times the squared distance
        for held, step in ((self.centers, share[:, None] * apart), (self.scatter, scatter + moved)):
            held.copy_(torch.stack(add_to_pair(held[0], held[1], step)))
        self.pixels.add_(pixels)

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """Count a batch and return the value of that batch alone, on this rank.

        Args:
            features: As for :meth:`update`.
            target: As for :meth:`update`.
        """
        value: Tensor = self._of_batch(features, target)
        return value

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, features: Tensor, target: Tensor) -> Tensor: ...

    def compute(self) -> Tensor:
        """The distances so far, as :func:`class_center_distance` gives them for one batch of all images.

        Returns:
            (K,) float64 on the CPU: the state is read from the device.
        """
        own = (self.pixels[None], self.centers[None], self.scatter[None])
        pixels, centers, scatter = _joined(*gather_rows(own, self.sync, self.group))
        return on_cpu(_distance_on_cpu(pixels, centers, scatter))

    def merge(self, other: ClassCenterDistance) -> None:
        """Add the pixels of another part of the data set.

        Raises:
            ValueError: If ``other`` has another number of classes or channels.
        """
        check_kind("other", other, ClassCenterDistance)
        if other.centers.shape != self.centers.shape:
            raise ValueError(
                f"other must have centers (K, D) = {tuple(self.centers.shape[1:])}, got "
                f"{tuple(other.centers.shape[1:])}."
            )
        own, others = ((each.pixels.cpu(), each.centers.cpu(), each.scatter.cpu()) for each in (self, other))
        pixels, *exact = _joined(*(torch.stack(pair) for pair in zip(own, others, strict=True)))
        self.pixels.copy_(torch.from_numpy(pixels))
        for held, number in zip((self.centers, self.scatter), exact, strict=True):
            rounded = number.astype(np.float32)
            held.copy_(torch.from_numpy(np.stack([rounded, (number - rounded).astype(np.float32)])))

    def _settings(self) -> dict[str, Any]:
        return {"num_classes": int(self.num_classes), "feature_dim": int(self.feature_dim)}

    def extra_repr(self) -> str:
        """The settings, for ``print(metric)``."""
        return f"num_classes={self.num_classes}, feature_dim={self.feature_dim}, ignore_index={self.ignore_index}"


@torch.no_grad()
def _spread_per_image(features: Tensor, target: Tensor, num_classes: int, ignore_index: int | None) -> _Spread:
    """Each image's own spread, around its own centers."""
    check_maps("features", features)
    check_label_map("target", target)
    check_has_pixels("target", target)
    check_same_batch("target", target, "features", features)
    check_class_ids("target", target, num_classes, ignore_index)
    ground_truth = _resize_labels(target, features.shape[2], features.shape[3]).to(torch.int64)
    counted = features.isfinite().all(1)  # the ignored id is not one of the classes
    region_map, _, area, _ = _stuff_regions(torch.where(counted, ground_truth, -1), range(num_classes))
    centers = _region_mean(features, region_map, num_classes)  # (B, K, D)
    with_none = F.pad(centers, (0, 0, 1, 0))  # (B, K + 1, D): row 0 for pixels of no class
    number = region_map.flatten(1).to(torch.int64)  # (B, P)
    own = with_none.gather(1, number[:, :, None].expand(-1, -1, centers.shape[2])).transpose(1, 2)  # (B, D, P)
    squared = (features.flatten(2).to(centers.dtype) - own).square().sum(1).view(ground_truth.shape)
    pixels = area[:, :, 0]
    return _Spread(pixels, centers, _region_mean(squared[:, None], region_map, num_classes)[:, :, 0] * pixels)


def _pooled(parts: _Spread) -> _Spread:
    """The spread of all pixels from that of P parts, (P, K, ...) to (K, ...)."""
    weight = parts.pixels.to(parts.centers.dtype)
    centers = (weight[:, :, None] * parts.centers).sum(0) / weight.sum(0).clamp(min=1)[:, None]
    moved = (parts.centers - centers).square().sum(2)
    return _Spread(parts.pixels.sum(0), centers, (parts.scatter + weight * moved).sum(0))


def _distance(spread: _Spread) -> Tensor:
    present = spread.pixels > 0
    within = spread.scatter / spread.pixels  # NaN for a class without a pixel
    between = torch.cdist(spread.centers[None], spread.centers[None], compute_mode="donot_use_mm_for_euclid_dist")[0]
    others = present & ~torch.eye(present.shape[0], dtype=torch.bool, device=present.device)
    return within * torch.where(others, 1 / between, 0).sum(1) / (present.sum() - 1)


def _joined(pixels: Tensor, centers: Tensor, scatter: Tensor) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The spread of all pixels from P modules' state, (P, K), (P, 2, K, D), (P, 2, K); float64 arrays on the CPU."""
    count = pixels.cpu().numpy()
    mean, squared = (pair_on_cpu(*pair.unbind(1)) for pair in (centers, scatter))
    center = (count[:, :, None] * mean).sum(0) / count.sum(0).clip(min=1)[:, None]
    return count.sum(0), center, (squared + count * ((mean - center) ** 2).sum(2)).sum(0)


def _distance_on_cpu(pixels: NDArray[Any], centers: NDArray[Any], scatter: NDArray[Any]) -> NDArray[Any]:
    """:func:`_distance` in float64 arrays: a device may have no float64."""
    squared = np.zeros((len(pixels), len(pixels)))
    for part in np.array_split(centers, -(-centers.size * len(pixels) // _NUMBERS), axis=1):
        squared += ((part[:, None] - part[None]) ** 2).sum(2)
    present = pixels > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        within, near = scatter / pixels, 1 / np.sqrt(squared)
        others = present & ~np.eye(len(pixels), dtype=bool)
        distance: NDArray[Any] = within * np.where(others, near, 0).sum(1) / (present.sum() - 1)
    return distance
