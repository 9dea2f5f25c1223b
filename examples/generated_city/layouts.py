"""The two published folder layouts, and writing into them so that a killed run leaves no half picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .canvas import Bytes
from .label_ids import palette
from .statistics import DomainStatistics


@dataclass(frozen=True)
class ScenePlace:
    """Where one scene's two files go; ``key`` seeds it, so a scene depends on its place alone."""

    key: tuple[int, int, int]
    image: Path
    labels: Path
    indexed: bool


def gta5_places(root: Path, stats: DomainStatistics, count: int) -> list[ScenePlace]:
    """``gta5/images/00001.png`` and ``gta5/labels/00001.png``, numbered from 1."""
    names = [f"{number + 1:05d}.png" for number in range(count)]
    return [
        ScenePlace((stats.seed_key, 0, k), root / "gta5/images" / name, root / "gta5/labels" / name, True)
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
                False,
            )
        )
    return places


def write_scene(place: ScenePlace, picture: Bytes, ids: Bytes) -> None:
    """Labels first, picture last: a picture that exists always has its labels."""
    labels = Image.fromarray(ids)
    if place.indexed:
        labels.putpalette(palette())
    _write_png(place.labels, labels)
    _write_png(place.image, Image.fromarray(picture))


def _write_png(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.save(beside, "PNG", compress_level=1)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
