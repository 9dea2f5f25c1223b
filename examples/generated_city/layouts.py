"""The three published folder layouts, and writing into them so that a killed run leaves no half image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from examples.gta5_to_cityscapes.atomic_io import written_beside

from .canvas import Bytes
from .label_ids import palette, synthia_ids
from .statistics import DomainStatistics

Labeling = Literal["indexed", "gray", "synthia"]  # palette PNG, gray PNG, 16-bit PNG of SYNTHIA's ids


@dataclass(frozen=True)
class ScenePlace:
    """Where one scene's two files go; ``key`` seeds it, so a scene depends on its number alone, not on the layout."""

    key: tuple[int, int, int]
    image: Path
    labels: Path
    labeling: Labeling


def gta5_places(root: Path, stats: DomainStatistics, count: int) -> list[ScenePlace]:
    """``gta5/images/00001.png`` and ``gta5/labels/00001.png``, numbered from 1."""
    names = [f"{number + 1:05d}.png" for number in range(count)]
    folder = root / "gta5"
    return [
        ScenePlace((stats.seed_key, 0, k), folder / "images" / name, folder / "labels" / name, "indexed")
        for k, name in enumerate(names)
    ]


def synthia_places(root: Path, stats: DomainStatistics, count: int) -> list[ScenePlace]:
    """``synthia/RGB/0000000.png`` and ``synthia/GT/LABELS/0000000.png``: the scenes of :func:`gta5_places`."""
    names = [f"{number:07d}.png" for number in range(count)]
    folder = root / "synthia"
    return [
        ScenePlace((stats.seed_key, 0, k), folder / "RGB" / name, folder / "GT" / "LABELS" / name, "synthia")
        for k, name in enumerate(names)
    ]


def cityscapes_places(root: Path, stats: DomainStatistics, split: str, count: int) -> list[ScenePlace]:
    """``cityscapes/leftImg8bit/<split>/<city>/...``; train and val have streets of their own."""
    places = []
    for k in range(count):
        city = stats.cities[k % len(stats.cities)]
        name = f"{city}_{0 if split == 'train' else 1:06d}_{k // len(stats.cities):06d}"
        base = root / "cityscapes"
        places.append(
            ScenePlace(
                (stats.seed_key, 1 + ("train", "val").index(split), k),
                base / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png",
                base / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
                "gray",
            )
        )
    return places


def write_scene(place: ScenePlace, image: Bytes, ids: Bytes) -> None:
    """Labels first, image last: an image that exists always has its labels."""
    if place.labeling == "synthia":
        with written_beside(place.labels) as beside:
            beside.write_bytes(_synthia_png(ids))
    else:
        labels = Image.fromarray(ids)
        if place.labeling == "indexed":
            labels.putpalette(palette())
        _write_png(place.labels, labels)
    _write_png(place.image, Image.fromarray(image))


def _synthia_png(ids: Bytes) -> bytes:
    """16-bit color, the class in the first channel; the second is for instances, which the city does not number."""
    channels = np.zeros((*ids.shape, 3), np.uint16)
    channels[..., 2] = synthia_ids(ids)  # OpenCV orders channels blue, green, red
    return cv2.imencode(".png", channels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _write_png(path: Path, image: Image.Image) -> None:
    with written_beside(path) as beside:
        image.save(beside, "PNG", compress_level=1)
