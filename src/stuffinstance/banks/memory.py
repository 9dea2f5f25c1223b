"""What stuff and instance banks share: buffers, checks, filtering of rows, synchronised ring writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from stuffinstance._state import StatefulModule
from stuffinstance.arguments import (
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
from stuffinstance.banks.classifier import Classifier, agrees
from stuffinstance.banks.ring import ring_write
from stuffinstance.distributed import Sync, gather_rows
from stuffinstance.label_maps import resize_labels
from stuffinstance.pooling import region_mean
from stuffinstance.regions import Regions

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
        validate: bool,
    ) -> None:
        super().__init__(sync, group)
        self.classes: tuple[int, ...] = checked_classes("classes", classes)
        if any(number < 0 for number in self.classes):
            raise ValueError(f"classes must be class ids of 0 or more, got {self.classes}.")
        feature_dim = checked_positive("feature_dim", feature_dim)
        capacity = checked_positive("capacity", capacity)
        self.feature_dim = feature_dim
        self.capacity = capacity
        self.validate = checked_flag("validate", validate)
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
            ValueError: If ranks, dtypes, sizes or devices do not fit, or, with ``validate=True``, if a feature is not
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
        if self.validate:
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
        if not may_read(self.written, self.validate) or not self.classes:
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
