"""Data set of one domain: images with label maps in class ids."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stuffinstance import CITYSCAPES

from .classes import LabelTable
from .image_files import MAX_PIXELS, DatasetError, image_size, read_image, resize_ids

logger = logging.getLogger(__name__)

ReadIds = Callable[[Path], npt.NDArray[Any]]
MapSize = Callable[[Path], tuple[int, int]]


class Sample(NamedTuple):
    """One image with its label map.

    Attributes:
        image: ``(3, H, W)`` uint8, RGB.
        labels: ``(H, W)`` uint8, ids of the label space; all ignored when labels are not read.
        name: Unique in its data set, usable as a file name.
    """

    image: Tensor
    labels: Tensor
    name: str


@dataclass(frozen=True)
class ImageFiles:
    """Files of one sample; ``labels`` is None where they are not read."""

    name: str
    image: Path
    labels: Path | None


def image_tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Decoded RGB pixels (H, W, 3) as samples have them: (3, H, W) uint8."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class SegmentationDataset(Dataset[Sample]):
    """Data set of one domain, with label maps in class ids.

    Attributes:
        names: Names of the samples, in the order of their index.
        table: From raw ids to class ids.
        unknown_ids: Pixels read so far per raw id without a row in the table; they are ignored. The
            count belongs to the process that reads: each worker process keeps, and reports, its own.
    """

    def __init__(
        self,
        files: Sequence[ImageFiles],
        *,
        table: LabelTable,
        read_ids: ReadIds,
        map_size: MapSize,
        size: tuple[int, int] | None = None,
    ) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS):
            raise ValueError(
                f"size must be (height, width), both at least 1 and together at most {MAX_PIXELS} pixels, got {size}. "
                "Use None to keep sizes."
            )
        self.files = list(files)
        self.names = [entry.name for entry in self.files]
        self.space = table.space
        self.size = size
        self.unknown_ids: Counter[int] = Counter()
        self.table = table
        self._read_ids = read_ids
        self._map_size = map_size
        self._reported: set[int] = set()

    def exclude(self, names: Collection[str]) -> None:
        """Remove these images."""
        excluded = set(names)
        self.files = [entry for entry in self.files if entry.name not in excluded]
        self.names = [entry.name for entry in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        entry = self.files[index]
        pixels, stored = read_image(entry.image, self.size)
        if entry.labels is None:
            labels = np.full(pixels.shape[:2], self.space.ignore_index, dtype=np.uint8)
        else:
            labels = self._read_labels(entry.image, entry.labels, stored)
        return Sample(image_tensor(pixels), torch.from_numpy(labels), entry.name)

    def label_map(self, index: int) -> Tensor:
        """The label map of a sample; of the image the size is read alone."""
        entry = self.files[index]
        if entry.labels is None:
            return self[index].labels
        return torch.from_numpy(self._read_labels(entry.image, entry.labels, image_size(entry.image)))

    def label_map_size(self, path: Path) -> tuple[int, int]:
        """(height, width) of a label map from its header; a file of another kind than the layout's is an error."""
        return self._map_size(path)

    def raw_id_pixels(self, index: int) -> npt.NDArray[np.int64]:
        """Pixels ``(256,)`` per raw id of one label map as stored; the image is not read.

        Ids beyond a byte are not counted; all are 0 where labels are not read.
        """
        path = self.files[index].labels
        if path is None:
            return np.zeros(256, dtype=np.int64)
        return np.bincount(self._read_ids(path).ravel(), minlength=256)[:256]

    def _read_labels(self, image: Path, path: Path, stored: tuple[int, int]) -> npt.NDArray[np.uint8]:
        raw = self._read_ids(path)
        if raw.shape != stored:
            raise DatasetError(
                f"{path}: expected the size of {image}, {stored[1]}x{stored[0]}, "
                f"got {raw.shape[1]}x{raw.shape[0]}. "
                "The pair does not belong together: replace one of the files, or take both out of the folder."
            )
        if self.size is not None:
            raw = resize_ids(raw, self.size)
        self._count_unknown(raw, path)
        inside = raw if raw.dtype == np.uint8 else np.minimum(raw, 255)
        labels = self.table.ids[inside]
        if raw.dtype != np.uint8:
            labels[raw > 255] = self.space.ignore_index
        return labels

    def _count_unknown(self, raw: npt.NDArray[Any], path: Path) -> None:
        counts = np.bincount(raw.ravel())
        present = np.flatnonzero(counts)
        unknown = [int(i) for i in present if i > 255 or not self.table.known[i]]
        self.unknown_ids.update({i: int(counts[i]) for i in unknown})
        fresh = set(unknown) - self._reported
        if fresh and not self._reported:
            logger.warning(
                "%s: %d pixels have label ids without a row in the class file: %s. They are ignored, here and in every "
                "other image, without a further message. Check that the folder is of the layout you named, or give "
                "these ids a class, or list them under ignore, in the class file (--class-file).",
                path,
                sum(int(counts[i]) for i in fresh),
                ", ".join(map(str, sorted(fresh))),
            )
        self._reported |= fresh


def look_like_train_ids(pixels: npt.NDArray[np.int64], table: LabelTable) -> bool:
    """Whether label maps hold train ids of Cityscapes (0..18, and 255 for unlabeled) instead of the table's label ids.

    They may where the table has classes beyond 18. They do where they hold three ids or more, all of them below 19 or
    255, and the table would leave too much without a class: half of the pixels, or a tenth of them where 255, of which
    published label ids have none, marks what has no class already.

    Args:
        pixels: ``(256,)`` pixels per raw id, over label maps that together show many classes.
        table: The lookup of their data set.
    """
    has_class = table.ids != table.space.ignore_index
    ids = np.flatnonzero(pixels[:255])
    if not has_class[CITYSCAPES.num_classes :].any() or len(ids) < 3 or ids[-1] >= CITYSCAPES.num_classes:
        return False
    without_class = int(pixels[:255][~has_class[:255]].sum())
    return without_class > (0.1 if pixels[255] else 0.5) * int(pixels[:255].sum())
