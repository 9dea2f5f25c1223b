"""How far images are from another domain before and after, in numbers and on a sheet to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

import stuffinstance as si
from examples.generated_city.gap import channel_statistics, held_out_accuracy, local_statistics
from examples.gta5_to_cityscapes.atomic_io import written_beside
from examples.gta5_to_cityscapes.data import SegmentationDataset, image_tensor, read_image

Panel = npt.NDArray[np.uint8]
BANDS = 4  # of the differences in brightness, which come before those in color
STATISTICS: dict[str, Callable[[Panel], npt.NDArray[np.float64]]] = {
    "channels": channel_statistics,
    "brightness texture": lambda image: local_statistics(image)[:BANDS],
    "color texture": lambda image: local_statistics(image)[BANDS:],
}


class Distance(NamedTuple):
    """Of images to a reference, by one kind of statistics.

    Attributes:
        accuracy: Of a linear classifier between them and the reference, on held-out images; 0.5 is chance.
        shift: Mean over the statistics of the distance of their means, in standard deviations of the reference.
    """

    accuracy: float
    shift: float


def distances(images: Sequence[Panel], reference: Sequence[Panel]) -> dict[str, Distance]:
    """Of as many images as references, by each kind of statistics that the generated city is judged by.

    ``channels`` are mean and deviation of each, ``brightness texture`` and ``color texture`` the energies of
    differences in four bands.
    """
    if len(images) != len(reference) or len(images) < 2:
        raise ValueError(
            f"images and reference must be equally many and at least 2, got {len(images)} and {len(reference)}."
        )
    result = {}
    for name, describe in STATISTICS.items():
        ours, theirs = (np.array([describe(image) for image in each]) for each in (images, reference))
        shift = np.abs(ours.mean(0) - theirs.mean(0)) / theirs.std(0).clip(1e-6)
        result[name] = Distance(held_out_accuracy(ours, theirs), float(shift.mean()))
    return result


def compare(
    originals: Sequence[Panel], translated: Sequence[Panel], reference: Sequence[Panel]
) -> dict[str, dict[str, Distance]]:
    """Distances to one half of the reference: of n images, as they are and translated, and of the other half.

    ``colors matched`` gives each image the LAB mean and deviation of a reference image, as the pipeline does
    without training.

    Args:
        originals: n images.
        translated: The same ones, translated.
        reference: 2n images of the domain that they are translated towards.
    """
    if not len(originals) == len(translated) == len(reference) / 2:
        raise ValueError(
            "originals, translated and reference must be n, n and 2n images, got "
            f"{len(originals)}, {len(translated)} and {len(reference)}."
        )
    first, second = reference[::2], reference[1::2]
    rows = {
        "as they are": originals,
        "colors matched": _colors_matched(originals, first),
        "translated": translated,
        "translated, colors matched": _colors_matched(translated, first),
        "reference itself": second,
    }
    return {name: distances(images, first) for name, images in rows.items()}


def _colors_matched(images: Sequence[Panel], like: Sequence[Panel]) -> list[Panel]:
    pairs = [[image_tensor(each)[None].float().div_(255) for each in pair] for pair in zip(images, like, strict=True)]
    matched = [si.lab_color_transfer(x, y).clamp(0, 1).mul(255).round().byte() for x, y in pairs]
    return [each[0].permute(1, 2, 0).numpy() for each in matched]


def spread(datasets: Sequence[SegmentationDataset], count: int, translated: Path | None = None) -> list[Panel]:
    """``count`` images, evenly over the data sets one after the other; in ``translated`` by name, where it is given."""
    files = [(entry, dataset) for dataset in datasets for entry in dataset.files]
    chosen = [files[int(i)] for i in np.linspace(0, len(files) - 1, count).round()]
    return [
        read_image(entry.image if translated is None else translated / f"{entry.name}.png", dataset.size)[0]
        for entry, dataset in chosen
    ]


def write_sheet(columns: Sequence[Sequence[Panel]], rows: int, path: Path) -> None:
    """A PNG of 256 colors: a column for each kind of images, ``rows`` of them, two pixels of white between."""
    gap = 2
    height, width = columns[0][0].shape[:2]
    sheet = np.full((rows * (height + gap) - gap, len(columns) * (width + gap) - gap, 3), 255, np.uint8)
    for i, images in enumerate(columns):
        for j, image in enumerate(images[:rows]):
            top, left = j * (height + gap), i * (width + gap)
            sheet[top : top + height, left : left + width] = image
    with written_beside(path) as beside:
        Image.fromarray(sheet).quantize(256, kmeans=2).save(beside, "PNG", optimize=True)
