"""What stuff and instance banks share: buffers, checks, filtering of rows, synchronised ring writes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stuffinstance.arguments import (
    check_finite,
    check_label_map,
    check_maps,
    check_on_device,
    check_same_batch,
    checked_classes,
    checked_flag,
    checked_positive,
)
from stuffinstance.banks.classifier import Classifier, agrees
from stuffinstance.banks.ring import ring_write
from stuffinstance.distributed import Sync, check_sync, gather_rows
from stuffinstance.label_maps import resize_labels
from stuffinstance.pooling import region_mean
from stuffinstance.regions import Regions


class Candidates(NamedTuple):
    """Rows on their way into a bank: features (N, D), place of the class (N,), whether to write them (N,)."""

    rows: Tensor
    position: Tensor
    valid: Tensor


class MemoryBank(nn.Module, ABC):
    """Per class a ring of S feature rows. :class:`StuffBank` and :class:`InstanceBank` say which regions fill it.

    Attributes:
        features: Buffer (C, S, D) float32. Slots that were never written are zero and never matched.
        written: Buffer (C,) int64, rows ever written per class: the next slot is ``written % S``.
    """

    features: Tensor
    written: Tensor
    class_ids: Tensor

    def __init__(self, classes: Sequence[int], feature_dim: int, capacity: int, *, sync: Sync, validate: bool) -> None:
        super().__init__()
        self.classes = checked_classes("classes", classes)
        if any(number < 0 for number in self.classes):
            raise ValueError(f"classes must be class ids of 0 or more, got {self.classes}.")
        feature_dim = checked_positive("feature_dim", feature_dim)
        capacity = checked_positive("capacity", capacity)
        check_sync(sync)
        self.feature_dim = feature_dim
        self.capacity = capacity
        self.sync: Sync = sync
        self.validate = checked_flag("validate", validate)
        self.register_buffer("features", torch.zeros(len(self.classes), capacity, feature_dim))
        self.register_buffer("written", torch.zeros(len(self.classes), dtype=torch.int64))
        self.register_buffer("class_ids", torch.tensor(self.classes, dtype=torch.int64), persistent=False)

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
        rows, position, valid = gather_rows(candidates, self.sync)
        ring_write(self.features, self.written, rows, position, valid)

    def extra_repr(self) -> str:
        """The shape, for ``print(module)``."""
        return f"classes={self.classes}, capacity={self.capacity}, feature_dim={self.feature_dim}"
