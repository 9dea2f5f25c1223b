"""Statistics of a data set over an evenly spread sample, and checks of its files and label ids."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .dataset import SegmentationDataset, look_like_train_ids
from .image_files import DatasetError, image_size

PUBLISHED_IMAGES = {  # by layout and split
    ("gta5", "train"): 24_966,
    ("synthia", "train"): 9_400,
    ("cityscapes", "train"): 2_975,
    ("cityscapes", "val"): 500,
}
MAPS_LOOKED_AT = 10  # for train ids: a tenth of a second, and together they show most classes


class UnreadableFile(NamedTuple):
    """An image or label map that cannot be read: its sample, and the reader's message, which names the file."""

    name: str
    reason: str


@dataclass(frozen=True)
class DatasetSummary:
    """Counts over a sample of a data set.

    Attributes:
        sampled: Number of images read.
        unreadable: Images of the sample that could not be read.
        sizes: (height, width) of the sampled images as they are shown.
        pixels: Pixels per class name; classes never seen are listed with 0.
        unknown_ids: Pixels per raw id without a row in the class file; they are ignored.
        unknown_in: The first label map that holds each of these ids.
    """

    sampled: int
    unreadable: list[UnreadableFile]
    sizes: dict[tuple[int, int], int]
    pixels: dict[str, int]
    unknown_ids: dict[int, int]
    unknown_in: dict[int, Path]

    def share(self, name: str) -> float:
        """Share of a class among the labeled pixels of the sample; 0 when nothing is labeled."""
        return self.pixels[name] / max(1, sum(self.pixels.values()))


def describe(dataset: SegmentationDataset, sample: int = 50) -> DatasetSummary:
    """Read ``sample`` images, spread evenly over the data set, and count their classes.

    Those that cannot be read are listed and skipped.

    Args:
        dataset: Pixels are counted at its ``size``. Its own ``unknown_ids`` is left as it was.
        sample: Images to read, at least 1; all of them when the data set has no more.
    """
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}. Pass len(dataset) to read everything.")
    count = min(sample, len(dataset))
    pixels = np.zeros(256, dtype=np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable: list[UnreadableFile] = []
    before = Counter(dataset.unknown_ids)
    unknown_in: dict[int, Path] = {}
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist():
        try:
            pixels += np.bincount(dataset[index].labels.numpy().ravel(), minlength=256)
        except DatasetError as error:
            unreadable.append(UnreadableFile(dataset.names[index], str(error)))
            continue
        if (path := dataset.files[index].labels) is not None:
            unknown_in |= dict.fromkeys((dataset.unknown_ids - before).keys() - unknown_in.keys(), path)
        sizes[image_size(dataset.files[index].image)] += 1
    unknown = dataset.unknown_ids - before
    dataset.unknown_ids = before
    return DatasetSummary(
        sampled=count - len(unreadable),
        unreadable=unreadable,
        sizes=dict(sizes.most_common()),
        pixels=dict(zip(dataset.space.names, pixels.tolist(), strict=False)),
        unknown_ids=dict(sorted(unknown.items())),
        unknown_in=unknown_in,
    )


def unreadable_files(dataset: SegmentationDataset) -> list[UnreadableFile]:
    """All files whose header cannot be read or is of the wrong kind.

    What is damaged further on only shows when it is decoded, as :func:`describe` does.
    """
    found = []
    for entry in dataset.files:
        try:
            image_size(entry.image)
        except DatasetError as error:
            found.append(UnreadableFile(entry.name, str(error)))
        try:
            if entry.labels is not None:
                dataset.label_map_size(entry.labels)
        except DatasetError as error:
            found.append(UnreadableFile(entry.name, str(error)))
    return found


def mismatched_pairs(dataset: SegmentationDataset) -> list[str]:
    """Names whose image and label map differ in size, from the headers of all files alone.

    Reading such a pair is an error; `check` lists them before a long run stops at one.
    """
    return [
        entry.name
        for entry in dataset.files
        if entry.labels is not None and image_size(entry.image) != dataset.label_map_size(entry.labels)
    ]


def require_labels(what: str, dataset: SegmentationDataset, classes: Collection[str] | None = None) -> None:
    """Check that label maps hold ids of their data set, and at least one pixel of a class.

    Label maps are read in a fixed shuffled order: ten, for a look at their ids together, and on from there only as long
    as no pixel has had a class. That is ten in a data set that can be used, however large it is. What cannot be read
    is left to whoever reads it next, who stops there.

    Args:
        what: The data set's part in a run, for the message.
        dataset: Opened with labels.
        classes: Names of the classes of which there must be one; all classes of the data set's space if None.

    Raises:
        DatasetError: If they look like train ids, or no pixel has one of the classes.
    """
    names = dataset.space.names if classes is None else tuple(classes)
    wanted = np.isin(dataset.table.ids, dataset.space.ids(names))
    pixels = np.zeros(256, dtype=np.int64)
    read: list[Path | None] = []
    for index in np.random.default_rng(0).permutation(len(dataset)).tolist():
        if len(read) >= MAPS_LOOKED_AT and pixels[wanted].any():
            break
        try:
            pixels += dataset.raw_id_pixels(index)
        except DatasetError:
            continue
        read.append(dataset.files[index].labels)
    if not read:
        return
    ids = ", ".join(map(str, np.flatnonzero(pixels))) or "none below 256"
    held = f"{ids} in {len(read)} label maps, one of them {read[0]}"
    if look_like_train_ids(pixels, dataset.table):
        raise DatasetError(
            f"{what}: expected label ids as the data set publishes them, got ids that look like train ids: {held}. "
            "Read as label ids they would be other classes: give the published files (of Cityscapes "
            "*_gtFine_labelIds.png), or convert the train ids back."
        )
    if not pixels[wanted].any():
        choose = "" if set(names) == set(dataset.space.names) else ", or choose other --classes"
        raise DatasetError(
            f"{what}: expected pixels of at least one class ({', '.join(names)}), got none, but the ids {held}. "
            f"Give label maps with the ids of the data set{choose}, and look at them with `check`."
        )
