"""What a data set holds, counted over an evenly spread sample: is this the right folder, read rightly?"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .errors import DatasetError
from .pictures import picture_size
from .samples import SegmentationDataset

PUBLISHED_PICTURES = {  # by layout and split
    ("gta5", "train"): 24_966,
    ("synthia", "train"): 9_400,
    ("cityscapes", "train"): 2_975,
    ("cityscapes", "val"): 500,
}


class UnreadableFile(NamedTuple):
    """A picture or label map that cannot be read: whose it is, and what the reader says, which names the file."""

    name: str
    reason: str


@dataclass(frozen=True)
class DatasetSummary:
    """Counts over a sample of a data set.

    Attributes:
        pictures: Number of pictures in the data set.
        sampled: Number of pictures read.
        unreadable: Pictures of the sample that could not be read.
        sizes: Stored (height, width) of the sampled pictures.
        pixels: Pixels per class name; classes never seen are listed with 0.
        pictures_with: Sampled pictures per class name that hold the class.
        ignored: Pixels that belong to no class of the space.
        unknown_ids: Pixels per raw id that the data set does not define (part of ``ignored``).
    """

    pictures: int
    sampled: int
    unreadable: list[UnreadableFile]
    sizes: dict[tuple[int, int], int]
    pixels: dict[str, int]
    pictures_with: dict[str, int]
    ignored: int
    unknown_ids: dict[int, int]

    def share(self, name: str) -> float:
        """Share of a class among the labelled pixels of the sample; 0 when nothing is labelled."""
        return self.pixels[name] / max(1, sum(self.pixels.values()))


def describe(dataset: SegmentationDataset, sample: int = 50) -> DatasetSummary:
    """Read ``sample`` pictures, spread evenly over the data set, and count their classes.

    Those that cannot be read are named and passed over.

    Args:
        dataset: Pixels are counted at its ``size``. Its own ``unknown_ids`` is left as it was.
        sample: Pictures to read, at least 1; all of them when the data set has no more.
    """
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}. Pass len(dataset) to read everything.")
    count = min(sample, len(dataset))
    indices = [int(i) for i in np.linspace(0, len(dataset) - 1, count).round()]
    pixels = np.zeros(256, dtype=np.int64)
    pictures_with = np.zeros(256, dtype=np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable: list[UnreadableFile] = []
    before = Counter(dataset.unknown_ids)
    for index in indices:
        try:
            histogram = np.bincount(dataset[index].labels.numpy().ravel(), minlength=256)
        except DatasetError as error:
            unreadable.append(UnreadableFile(dataset.names[index], str(error)))
            continue
        pixels += histogram
        pictures_with += histogram > 0
        sizes[picture_size(dataset.files[index].image, dataset.max_pixels)] += 1
    unknown = dataset.unknown_ids - before
    dataset.unknown_ids = before
    names = dataset.space.names
    return DatasetSummary(
        pictures=len(dataset),
        sampled=count - len(unreadable),
        unreadable=unreadable,
        sizes=dict(sizes.most_common()),
        pixels={name: int(pixels[i]) for i, name in enumerate(names)},
        pictures_with={name: int(pictures_with[i]) for i, name in enumerate(names)},
        ignored=int(pixels[dataset.space.ignore_index]),
        unknown_ids=dict(sorted(unknown.items())),
    )


def unreadable_files(dataset: SegmentationDataset) -> list[UnreadableFile]:
    """Files of which not even the header can be read, all of them: where reading would stop at the first.

    What is damaged further on only shows when it is decoded, as :func:`describe` does.
    """
    found = []
    for entry in dataset.files:
        for path in (entry.image, entry.labels):
            try:
                if path is not None:
                    picture_size(path, dataset.max_pixels)
            except DatasetError as error:
                found.append(UnreadableFile(entry.name, str(error)))
    return found


def mismatched_pairs(dataset: SegmentationDataset) -> list[str]:
    """Names whose image and label map differ in size, from the headers of all files alone.

    Reading such a pair is an error; `check` tells them before a long run stops at one.
    """
    return [
        entry.name
        for entry in dataset.files
        if entry.labels is not None
        and picture_size(entry.image, dataset.max_pixels) != picture_size(entry.labels, dataset.max_pixels)
    ]
