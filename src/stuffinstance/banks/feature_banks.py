"""Index arithmetic of a ring of S slots per class; knows tensors only, no modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from stuffinstance._checks import (
    check_finite,
    check_label_map,
    check_maps,
    check_on_device,
    check_same_batch,
    checked_classes,
    checked_flag,
    checked_positive,
    may_read,
)
from stuffinstance._state import StatefulModule
from stuffinstance.distributed import Sync, gather_rows
from stuffinstance.label_maps import resize_labels
from stuffinstance.pooling import region_mean
from stuffinstance.regions import Regions, instance_regions, stuff_regions
from stuffinstance.regions.connected_components import checked_connectivity


def ring_write(features: Tensor, written: Tensor, rows: Tensor, position: Tensor, valid: Tensor) -> None:
    """Write rows into the rings of their classes, in order, in place, without asking the device anything.

    The n-th row ever written to a class goes to slot n mod S. Of more than S rows of a class in one call only the last
    S are written, where they would have ended up one by one.

    Args:
        features: (C, S, D), contiguous; changed in place.
        written: (C,) int64, rows ever written; changed in place.
        rows: (N, D) in the order of writing.
        position: (N,) int64, the class of each row as its place 0 .. C-1.
        valid: (N,) bool; other rows are not written and do not count.
    """
    classes, slots, channels = features.shape
    if rows.shape[0] == 0 or classes == 0:
        return
    is_of_class = (position[:, None] == torch.arange(classes, device=rows.device)) & valid[:, None]  # (N, C)
    counted = is_of_class.cumsum(0)
    rank = counted.gather(1, position[:, None])[:, 0] - 1  # how many valid rows of the class came before
    count = counted[-1]
    kept = valid & (rank >= count[position] - slots)
    target = position * slots + (written[position] + rank.clamp(min=0)) % slots
    # A fixed-shape scatter has no way to skip a row, so a row that is not kept repeats one that is: the same bits to
    # the same slot. If none is kept, the first slot gets what it holds.
    index = torch.arange(rows.shape[0], device=rows.device)
    repeated = kept.to(torch.uint8).argmax()
    source = torch.where(kept, index, repeated)
    target = torch.where(kept.any(), target[source], 0)
    flat = features.view(classes * slots, channels)
    values = torch.where(kept.any(), rows[source].to(flat.dtype), flat[target])
    flat.index_copy_(0, target, values)
    written += count


Classifier = Callable[[Tensor], Tensor]
"""Rows (N, D) to logits (N, K). On a 1×1 map dilated 3×3 convolutions reduce to their center taps."""

_CONVOLUTIONS = (
    "For a head of 1x1 or dilated 3x3 convolutions pass lambda rows: head(rows[:, :, None, None])[:, :, 0, 0]."
)


@torch.no_grad()
def agrees(rows: Tensor, classes: Tensor, classifier: Classifier, most: int) -> Tensor:
    """Whether the classifier's first choice for each row is the row's class.

    Args:
        rows: Pooled features, (N, D).
        classes: Their class ids, (N,) int64.
        classifier: Rows to logits. Rows of regions that do not exist are passed too, as zeros: it must treat each row
            on its own (no batch normalization in training mode). Rows are float32 whatever the features are: for a
            head in half precision pass ``lambda rows: head(rows.bfloat16())``.
        most: The largest class id that it must know.

    Returns:
        (N,) bool.

    Raises:
        ValueError: If the classifier does not take such rows or does not return logits (N, K).
    """
    if rows.shape[0] == 0:
        return torch.zeros_like(classes, dtype=torch.bool)
    # A compiler that finds an error while tracing reports it itself; a try block would break the graph.
    logits = classifier(rows) if torch.compiler.is_compiling() else _logits_of(rows, classifier)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != rows.shape[0]:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"classifier must map rows (N, D) = {tuple(rows.shape)} to logits (N, K), got {came}. {_CONVOLUTIONS}"
        )
    if logits.shape[1] <= most:
        raise ValueError(
            f"classifier must give logits (N, K) of every class up to id {most}, got K = {logits.shape[1]}. "
            "Pass the segmentation head of the same label space."
        )
    return logits.argmax(1) == classes


def _logits_of(rows: Tensor, classifier: Classifier) -> Tensor:
    """What the classifier answers; that it cannot take the rows is said in the caller's terms."""
    try:
        return classifier(rows)
    except torch.cuda.OutOfMemoryError:  # a RuntimeError too, but not about the rows
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"classifier must map rows (N, D) to logits (N, K); calling it with (N, D) = {tuple(rows.shape)} failed, "
            f"got {type(error).__name__}: {error}. {_CONVOLUTIONS}"
        ) from error


if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Candidates(NamedTuple):
    """Rows on their way into a bank: features (N, D), place of the class (N,), whether to write them (N,)."""

    rows: Tensor
    position: Tensor
    valid: Tensor


class MemoryBank(StatefulModule, ABC):
    """Per class a ring of S feature rows. :class:`StuffBank` and :class:`InstanceBank` say which regions fill it.

    Attributes:
        features: Buffer (C, S, D) float32. Slots that were never written are zero and never matched.
        written: Buffer (C,) int64, rows ever written per class: the next slot is ``written % S``.
        class_ids: The classes as a tensor (C,) int64 on the bank's device.

    Both buffers keep their dtypes under ``.half()`` and ``.to(dtype)``. The state holds the class ids: loaded into a
    bank of the same classes in another order, each row goes to its class.

    Rings and counters cannot be averaged: where weights are (``torch.optim.swa_utils.AveragedModel``, Lightning's
    ``EMAWeightAveraging``) pass ``use_buffers=False``, which copies buffers, or keep the bank out of the averaged
    module.
    A bank that was averaged before it was full raises when it is used (looked at as values are).
    """

    features: Tensor
    written: Tensor
    class_ids: Tensor

    def __init__(
        self,
        classes: Sequence[int],
        feature_dim: int,
        capacity: int,
        *,
        sync: Sync,
        group: ProcessGroup | None,
        validate_args: bool,
    ) -> None:
        super().__init__(sync, group)
        self.classes: tuple[int, ...] = checked_classes("classes", classes)
        if any(number < 0 for number in self.classes):
            raise ValueError(f"classes must be class ids of 0 or more, got {self.classes}.")
        feature_dim = checked_positive("feature_dim", feature_dim)
        capacity = checked_positive("capacity", capacity)
        self.feature_dim = feature_dim
        self.capacity = capacity
        self.validate_args = checked_flag("validate_args", validate_args)
        count = len(self.classes)
        self._hold("features", count, capacity, feature_dim, dtype=torch.float32, kind="buffer")
        self._hold("written", count, kind="buffer")
        self._hold("class_ids", count, value=self.classes, kind="constant")

    @property
    def filled(self) -> Tensor:
        """(C, S) bool: the slots that hold a row."""
        slots = torch.arange(self.capacity, device=self.written.device)
        return slots < self.written[:, None]

    @abstractmethod
    def regions(self, labels: Tensor) -> Regions:
        """The regions of a label map whose mean features this bank keeps."""

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, classifier: Classifier | None = None) -> None:
        """Write the mean features of a batch's regions, image by image, without gradient.

        Rows with a NaN or an infinity are never written. Under ``torch.distributed`` every rank must call this; all
        ranks' rows are written on all ranks, in rank order.

        Args:
            features: Source features, (B, D, h, w).
            labels: Class ids (B, H, W) with wrong pixels already ignored (:func:`correct_labels`); resized nearest to
                (h, w). Ids that are not the bank's are passed over.
            classifier: Rows (N, D) to logits (N, K). Given, only rows that it puts into their own class are written.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit, or, with ``validate_args=True``, if a feature is not
                finite. The bank is then as it was.
        """
        self.check(features, labels)
        regions = self.regions(resize_labels(labels, (features.shape[2], features.shape[3])))
        rows = region_mean(features, regions)
        self.write(self.candidates(rows, regions, classifier))

    def check(self, features: Tensor, labels: Tensor) -> None:
        """Require a feature map and a label map that belong together and to this bank."""
        check_maps("features", features, channels=self.feature_dim)
        check_label_map("labels", labels)
        check_same_batch("labels", labels, "features", features)
        check_on_device("features", features, "bank", self.features)
        if self.validate_args:
            check_finite("features", features)

    @torch.no_grad()
    def candidates(self, rows: Tensor, regions: Regions, classifier: Classifier | None = None) -> Candidates:
        """Rows (B, R, D) of regions as the list that :meth:`write` takes; changes nothing."""
        self._check_rings()
        batch, classes, per_class = regions.valid.shape
        flat = rows.detach().reshape(-1, self.feature_dim)
        place = torch.arange(classes, device=rows.device)[None, :, None].expand(batch, -1, per_class).reshape(-1)
        # In the bank's own dtype: what overflows there is not finite either.
        valid = regions.valid.reshape(-1) & flat.to(self.features.dtype).isfinite().all(1)
        if classifier is not None:
            valid &= self.agreeing(rows, regions, classifier).reshape(-1)
        return Candidates(flat, place, valid)

    def agreeing(self, rows: Tensor, regions: Regions, classifier: Classifier) -> Tensor:
        """Which regions' mean features (B, R, D) the classifier puts into their own class, (B, C, Z) bool."""
        ids = self.class_ids[:, None].expand_as(regions.valid).reshape(-1)
        flat = rows.detach().reshape(-1, self.feature_dim)
        return agrees(flat, ids, classifier, max(self.classes, default=0)).view_as(regions.valid)

    @torch.no_grad()
    def write(self, candidates: Candidates) -> None:
        """Write candidates of all ranks, in rank order."""
        rows, position, valid = gather_rows(candidates, self.sync, self.group)
        ring_write(self.features, self.written, rows, position, valid)

    def _check_rings(self) -> None:
        """Require the next slot of a ring that is not full to be empty, which averaging ends."""
        if not may_read(self.written, self.validate_args) or not self.classes:
            return
        following = self.features[torch.arange(len(self.classes)), self.written.clamp(0, self.capacity - 1).cpu()]
        open_ended = (self.written >= 0) & (self.written < self.capacity)
        broken = (self.written < 0) | (open_ended & (following != 0).any(1))
        if bool(broken.any()):
            raise RuntimeError(
                f"written must count the rows of features, got counters of classes "
                f"{self.class_ids[broken].tolist()} that do not: rings and counters cannot be averaged. Average with "
                "use_buffers=False (AveragedModel, EMAWeightAveraging), or call reset()."
            )

    def _settings(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "capacity": int(self.capacity), "feature_dim": int(self.feature_dim)}

    def _fits(self, settings: dict[str, Any]) -> bool:
        return self._settings() | {"classes": sorted(self.classes)} == settings | {
            "classes": sorted(settings.get("classes", ()))
        }

    def _sorted(self, entries: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
        places = [settings["classes"].index(c) for c in self.classes]
        return {name: entry[places] for name, entry in entries.items()}

    def extra_repr(self) -> str:
        """The shape, for ``print(module)``."""
        return f"classes={self.classes}, capacity={self.capacity}, feature_dim={self.feature_dim}"


if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class StuffBank(MemoryBank):
    """Keeps the last S mean features of each stuff class (SIM, Eq. 5).

    .. math:: S^b_{n_b \\bmod w} = \\mathcal{A}^b(L_C, f), \\qquad n_b \\leftarrow n_b + 1

    The paper takes slot *i* mod *w* with *i* counting images, and writes only where the class occurs; the reference implementation
    counts the rows of each class, and so does this bank: it always keeps the class's last *w* rows.

    Args:
        classes: The C stuff class ids.
        feature_dim: D.
        capacity: S, slots per class (w = 50 in paper and code).
        sync: ``"auto"`` shares rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Look for non-finite features before each update and raise; reads from the device.

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
        validate_args: bool = False,
    ) -> None:
        super().__init__(classes, feature_dim, capacity, sync=sync, group=group, validate_args=validate_args)

    def regions(self, labels: Tensor) -> Regions:
        """One region per class: all of its pixels."""
        return stuff_regions(labels, self.classes)


if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class InstanceBank(MemoryBank):
    """Keeps the mean features of the largest connected regions of each thing class (SIM, Algorithm 1).

    Per image and class the ``max_instances`` largest regions, by falling area, go to slot :math:`c_k \\bmod S`. A
    region that the agreement filter turns away still uses up its place among the largest, as in the reference implementation.

    Args:
        classes: The C thing class ids.
        feature_dim: D.
        capacity: S, slots per class (z·w = 500 in paper and code).
        max_instances: z, regions kept per class and image.
        connectivity: 4 or 8 neighbors (8 in the reference implementation; the paper does not say).
        sync: ``"auto"`` shares rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Look for non-finite features before each update and raise; reads from the device.

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
        validate_args: bool = False,
    ) -> None:
        super().__init__(classes, feature_dim, capacity, sync=sync, group=group, validate_args=validate_args)
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
