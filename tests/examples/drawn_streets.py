"""A handful of tiny street-like images in the published folder layouts, drawn in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# Cityscapes label ids, which GTA5 shares.
SKY, BUILDING, VEGETATION, ROAD, SIDEWALK, POLE, PERSON, CAR = 23, 11, 21, 7, 8, 17, 24, 26
COLORS = {
    SKY: (150, 190, 230),
    BUILDING: (120, 100, 90),
    VEGETATION: (60, 120, 50),
    ROAD: (90, 90, 95),
    SIDEWALK: (160, 150, 160),
    POLE: (40, 40, 40),
    PERSON: (200, 60, 60),
    CAR: (30, 60, 170),
}


def draw_street(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Label ids (H, W) and a noisy image (H, W, 3) of them."""
    ids = np.full((height, width), SKY, np.uint8)
    horizon = height // 2 + int(rng.integers(-3, 4))
    ids[horizon // 3 : horizon] = BUILDING
    ids[horizon // 2 : horizon, : width // 4] = VEGETATION
    ids[horizon:] = ROAD
    ids[horizon:, : width // 6] = SIDEWALK
    for kind, (tall, wide), count in ((CAR, (8, 14), 3), (PERSON, (10, 4), 3), (POLE, (20, 2), 2)):
        for _ in range(count):
            top = horizon - tall // 2 + int(rng.integers(0, 6))
            left = int(rng.integers(0, width - wide))
            ids[top : top + tall, left : left + wide] = kind
    image = np.zeros((height, width, 3))
    for kind, color in COLORS.items():
        image[ids == kind] = color
    image += rng.normal(0, 12, image.shape)
    return ids, image.clip(0, 255).astype(np.uint8)


def write_streets(root: Path, *, source: int = 6, train: int = 4, val: int = 3) -> None:
    """Write ``root/gta5`` and ``root/cityscapes``, 96 wide and 48 high."""
    rng = np.random.default_rng(0)
    for i in range(source):
        ids, image = draw_street(rng, 48, 96)
        _save(image, root / "gta5" / "images" / f"{i + 1:05}.png")
        labels = Image.fromarray(ids)
        labels.putpalette([value for i in range(256) for value in (i, i, i)])  # GTA5 labels are palette PNGs
        _save(labels, root / "gta5" / "labels" / f"{i + 1:05}.png")
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            ids, image = draw_street(rng, 48, 96)
            name = f"tiny_{i:06}_000019"
            warm = (image * np.array([1.0, 0.85, 0.7])).astype(np.uint8)  # another camera
            cityscapes = root / "cityscapes"
            _save(warm, cityscapes / "leftImg8bit" / split / "tiny" / f"{name}_leftImg8bit.png")
            _save(ids, cityscapes / "gtFine" / split / "tiny" / f"{name}_gtFine_labelIds.png")


def _save(image: np.ndarray | Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)
