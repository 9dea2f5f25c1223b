"""Feature banks: per class a ring of the last S mean features of source regions (SIM, Eq. 5 and Algorithm 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from stuffinstance._checks import (
    check_finite,
    check_has_pixels,
    check_label_map,
    check_maps,
    check_on_device,
    check_same_batch,
    checked_classes,
    checked_positive,
    checked_whole,
    describe,
    may_read,
    whole_number,
)
from stuffinstance._state import StatefulModule
from stuffinstance._warnings import warn_of_other_proportions
from stuffinstance.banks.classifier import Classifier, agrees
from stuffinstance.distributed import Sync, gather_rows
from stuffinstance.label_maps import _resize_labels
from stuffinstance.pooling.region_mean import _region_mean
from stuffinstance.regions import Regions
from stuffinstance.regions.connected_components import checked_connectivity
from stuffinstance.regions.region_table import _instance_regions, _stuff_regions, count_rows, most_regions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _Candidates(NamedTuple):
    """Rows to write into a bank: features (N, D), place of the class (N,), whether to write them (N,)."""

    rows: Tensor
    position: Tensor
    valid: Tensor


def ring_write(features: Tensor, written: Tensor, rows: Tensor, position: Tensor, valid: Tensor) -> None:
    """Write rows into the rings of their classes, in order, in place, without a read from the device.

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


class MemoryBank(StatefulModule, ABC):
    """Feature bank: per class a ring of S rows. Base class of :class:`StuffBank` and :class:`InstanceBank`.

    Attributes:
        features: Buffer (C, S, D) float32. Slots that were never written are zero and never matched.
        written: Buffer (C,) int64, rows ever written per class: the next slot is ``written % S``.
        classes: The C class ids.
        names: Their names, or None.

    ``len(bank)`` is the number of rows it holds, ``bank.rows(class)`` gives those of a class, and ``print(bank)`` shows
    how many each class has (on a CPU, where that costs no synchronization).

    Both buffers keep their dtypes under ``.half()`` and ``.to(dtype)``. The state holds the class ids: loaded into a
    bank of the same classes in another order, each row goes to its class.

    Rings and counters cannot be averaged: where weights are (``torch.optim.swa_utils.AveragedModel``, Lightning's
    ``EMAWeightAveraging``) pass ``use_buffers=False``, which copies buffers, or keep the bank out of the averaged
    module. A bank that was averaged before it was full raises when it is used (looked at as values are).
    """

    features: Tensor
    written: Tensor
    _class_ids: Tensor

    def __init__(
        self,
        classes: Sequence[int],
        feature_dim: int,
        capacity: int = 50,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(sync, group, validate_args)
        self.classes: tuple[int, ...] = checked_classes("classes", classes)
        if any(number < 0 for number in self.classes):
            raise ValueError(f"classes must be class ids of 0 or more, got {self.classes}.")
        self.names: tuple[str, ...] | None = None if names is None else _checked_names(names, self.classes)
        self.feature_dim = checked_positive("feature_dim", feature_dim)
        self.capacity = checked_positive("capacity", capacity)
        count = len(self.classes)
        self._hold("features", count, self.capacity, self.feature_dim, dtype=torch.float32, kind="buffer")
        self._hold("written", count, kind="buffer")
        self._hold("_class_ids", count, value=self.classes, kind="constant")

    @property
    def filled(self) -> Tensor:
        """(C, S) bool: the slots that hold a row."""
        slots = torch.arange(self.capacity, device=self.written.device)
        return slots < self.written[:, None]

    def rows(self, class_: int | str) -> Tensor:
        """The rows that the bank holds of one class, oldest first and newest last.

        Reads the class's counter from the device.

        Args:
            class_: A class id, or a name where the bank was given ``names`` (the facade gives those of its space).

        Returns:
            (n, D) float32, a copy; n is at most S, and 0 for a class without a row.

        Raises:
            TypeError: If ``class_`` is neither a whole number nor a string.
            ValueError: If the bank does not keep that class.

        Example:
            >>> bank = StuffBank(classes=(3,), feature_dim=1, capacity=2, names=("sky",))
            >>> for value in (1.0, 2.0, 3.0):
            ...     bank.update(torch.full((1, 1, 1, 1), value), torch.tensor([[[3]]]))
            >>> bank.rows("sky")
            tensor([[2.],
                    [3.]])
        """
        place = self._place_of(class_)
        written = int(self.written[place])
        if written <= self.capacity:
            return self.features[place, :written].detach().clone()
        return self.features[place].detach().roll(-(written % self.capacity), 0)

    def _place_of(self, class_: int | str) -> int:
        number = whole_number(class_)
        if number is None and not isinstance(class_, str):
            raise TypeError(f"class_ must be a class id or a name, got {describe(class_)}.")
        known: Sequence[int | str] = self.classes if number is not None else self.names or ()
        wanted = class_ if number is None else number
        if wanted not in known:
            raise ValueError(
                f"class_ must be one of the bank's classes {self.classes}"
                f"{'' if self.names is None else f' or names {self.names}'}, got {class_!r}."
            )
        return known.index(wanted)

    def __len__(self) -> int:
        """How many rows the bank holds in all; reads the counters from the device."""
        return int(self.written.clamp(max=self.capacity).sum())

    def __bool__(self) -> bool:
        """True: an empty bank is a bank."""
        return True

    @abstractmethod
    def _regions(self, labels: Tensor) -> Regions:
        """The regions of a label map whose mean features this bank keeps; labels are not checked."""

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, classifier: Classifier | None = None) -> None:
        """Write the mean features of a batch's regions (SIM, Eq. 5), image by image, without gradient.

        Rows with a NaN or an infinity are never written. Under ``torch.distributed`` every rank must call this; all
        ranks' rows are written on all ranks, in rank order.

        Args:
            features: Source features, (B, D, h, w).
            labels: Class ids (B, H, W) with wrong pixels already ignored (:func:`correct_labels`); resized nearest to
                (h, w). Ids that are not the bank's are ignored.
            classifier: Rows (N, D) to logits (N, K). Given, only rows that it puts into their own class are written.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit, or, with ``validate_args=True``, if a feature is
                not finite. The bank is then as it was.
        """
        self._check(features, labels)
        rows, regions = self._pool(features, labels)
        self._write(self._candidates(rows, regions.valid, classifier))

    def _pool(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Regions]:
        """Mean features (B, R, D) of this bank's regions, and the regions; nothing is checked."""
        regions = self._regions(_resize_labels(labels, features.shape[2], features.shape[3]))
        return _region_mean(features, regions.region_map, count_rows(regions)), regions

    def _check(self, features: Tensor, labels: Tensor) -> None:
        """Require a feature map and a label map that belong together and to this bank."""
        check_maps("features", features, channels=self.feature_dim)
        check_label_map("labels", labels)
        check_has_pixels("labels", labels)
        check_same_batch("labels", labels, "features", features)
        warn_of_other_proportions("labels", labels, "features", features)
        check_on_device("features", features, "bank", self.features)
        if self.validate_args:
            check_finite("features", features)

    @torch.no_grad()
    def _candidates(self, rows: Tensor, exists: Tensor, classifier: Classifier | None) -> _Candidates:
        """Rows (B, R, D) of regions that exist (B, C, Z) as the list that :meth:`_write` takes; changes nothing."""
        self._check_rings()
        batch, classes, per_class = exists.shape
        flat = rows.detach().reshape(-1, self.feature_dim)
        place = torch.arange(classes, device=rows.device)[None, :, None].expand(batch, -1, per_class).reshape(-1)
        # In the bank's own dtype: what overflows there is not finite either. Both bounds are where all of a row is.
        lowest, highest = torch.aminmax(flat.to(self.features.dtype), dim=1)
        valid = exists.reshape(-1) & lowest.isfinite() & highest.isfinite()
        if classifier is not None:
            valid &= self._agreeing(rows, exists, classifier).reshape(-1)
        return _Candidates(flat, place, valid)

    def _agreeing(self, rows: Tensor, exists: Tensor, classifier: Classifier) -> Tensor:
        """Which regions' mean features (B, R, D) the classifier puts into their own class, (B, C, Z) bool."""
        ids = self._class_ids[:, None].expand_as(exists).reshape(-1)
        flat = rows.detach().reshape(-1, self.feature_dim)
        return agrees(flat, ids, classifier, max(self.classes, default=0)).view_as(exists)

    @torch.no_grad()
    def _write(self, candidates: _Candidates) -> None:
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
                f"{self._class_ids[broken].tolist()} that do not: rings and counters cannot be averaged. Average with "
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
        """Classes, sizes and rows per class, for ``print(module)``."""
        return f"classes={self.classes}, capacity={self.capacity}, feature_dim={self.feature_dim}, rows={self._fill()}"

    def _fill(self) -> str:
        """Rows per class where reading them is free, else where they are."""
        if not may_read(self.written):
            return f"on {self.written.device}"
        counts = self.written.clamp(max=self.capacity).tolist()
        return "{" + ", ".join(f"{k}: {n}" for k, n in zip(self.names or self.classes, counts, strict=True)) + "}"


def _checked_names(names: Sequence[str], classes: tuple[int, ...]) -> tuple[str, ...]:
    """One name per class."""
    given = () if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or any(not isinstance(name, str) for name in given):
        raise TypeError(f"names must be a sequence of class names, got {names!r}.")
    if len(given) != len(classes) or len(set(given)) != len(given):
        raise ValueError(f"names must be {len(classes)} distinct names, one for each of classes, got {given}.")
    return given


class StuffBank(MemoryBank):
    """Stuff feature bank (SIM, Eq. 5): the last S mean features of each stuff class.

    .. math:: S^b_{n_b \\bmod w} = \\mathcal{A}^b(L_C, f), \\qquad n_b \\leftarrow n_b + 1

    The paper (https://arxiv.org/abs/2003.08040) takes slot *i* mod *w* with *i* counting images, and writes only where
    the class occurs; the reference implementation counts the rows of each class, and so does this bank: it always keeps
    the class's last *w* rows.

    Args:
        classes: The C stuff class ids.
        feature_dim: D.
        capacity: S, slots per class (w = 50 in paper and code).
        sync: ``"auto"`` shares rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Raise for features that are not finite, before each update; reads from the device.
        names: The classes' names, one each, for :meth:`rows` and ``print(bank)``.

    Raises:
        ValueError: If ``classes`` or ``names`` repeat, or ``feature_dim`` or ``capacity`` is below 1.

    Example:
        >>> bank = StuffBank(classes=(0,), feature_dim=1, capacity=2)
        >>> bank.update(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0, 0]]]))
        >>> bank.features, bank.written, bank.filled
        (tensor([[[2.],
                 [0.]]]), tensor([1]), tensor([[ True, False]]))
    """

    def _regions(self, labels: Tensor) -> Regions:
        """One region per class: all of its pixels."""
        return _stuff_regions(labels, self.classes)


class InstanceBank(MemoryBank):
    """Instance feature bank (SIM, Algorithm 1): mean features of the largest connected regions of each thing class.

    Per image and class the ``max_instances`` largest regions, by falling area, go to slot :math:`c_k \\bmod S`. A
    region that the agreement filter rejects still uses up its place among the largest, as in the reference
    implementation. Paper: https://arxiv.org/abs/2003.08040.

    Args:
        classes: The C thing class ids.
        feature_dim: D.
        capacity: S, slots per class (z·w = 500 in paper and code).
        max_instances: z, regions kept per class and image.
        connectivity: 4 or 8 neighbors (8 in the reference implementation; the paper does not say).
        sync: ``"auto"`` shares rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Raise for features that are not finite, before each update; reads from the device.
        names: The classes' names, one each, for :meth:`rows` and ``print(bank)``.

    Raises:
        ValueError: If ``classes`` or ``names`` repeat, a size is below 1, or ``connectivity`` is not 4 or 8.

    Example:
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
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            classes, feature_dim, capacity, sync=sync, group=group, validate_args=validate_args, names=names
        )
        self.connectivity = checked_connectivity(connectivity)
        self.max_instances = checked_positive("max_instances", max_instances)

    def _regions(self, labels: Tensor) -> Regions:
        """The largest connected regions of each class."""
        return _instance_regions(labels, self.classes, self._checked_most(labels), self.connectivity)

    def _checked_most(self, labels: Tensor) -> int:
        """Z, which no table of these labels may exceed."""
        if self.max_instances > 2**16:  # below that an image of any size has room for them
            checked_whole("max_instances", self.max_instances, 1, most_regions(labels))
        return self.max_instances

    def extra_repr(self) -> str:
        """The shape, for ``print(module)``."""
        return f"{super().extra_repr()}, max_instances={self.max_instances}, connectivity={self.connectivity}"
