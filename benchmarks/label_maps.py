"""The label maps that benchmarks run on: drawn streets as a user has them, and maps on which labeling is hard."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

import stuffinstance as si
from examples.generated_city.rendering import render_scene
from examples.generated_city.statistics import CAMERA_CITY
from examples.gta5_to_cityscapes.data import read_classes

STRIDE = 8
"""Of the feature map that SIM resizes labels to."""

_FEATURE_MAP_HEIGHT = 128  # below it a size is that of a feature map, and the street is drawn STRIDE times larger
_STREETS = 4


def city_labels(batch: int, height: int, width: int) -> Tensor:
    """Train ids of drawn streets, (B, H, W) int64 with 255 for pixels without a class.

    A feature map's size (below 128 rows) is drawn eight times larger and resized nearest, as SIM does. Four streets are
    drawn; further images are these mirrored, then these again.
    """
    small = height < _FEATURE_MAP_HEIGHT
    drawn = (STRIDE * height, STRIDE * width) if small else (height, width)
    streets = []
    for number in range(batch):
        street = si.resize_labels(_street(number % _STREETS, *drawn)[None], (height, width))[0]
        streets.append(street.flip(1) if number // _STREETS % 2 else street)
    return torch.stack(streets)


def noise_labels(batch: int, height: int, width: int, classes: int = 19, seed: int = 0) -> Tensor:
    """Every pixel a class of its own, (B, H, W) int64: more regions than any network predicts."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (batch, height, width), generator=generator)


def worst_cases(height: int, width: int, thing: int = 13) -> dict[str, Tensor]:
    """Single maps (1, H, W) int64 of one thing class and 255, by name: long paths and late meetings."""
    return {
        "spiral": torch.where(spiral(height, width), thing, 255)[None],
        "comb": torch.where(comb(height, width), thing, 255)[None],
        "checkerboard": torch.where(checkerboard(height, width), thing, 255)[None],
    }


def spiral(height: int, width: int) -> Tensor:
    """One path a pixel wide that winds inwards with a pixel between its turns, (H, W) bool."""
    path = torch.zeros(height, width, dtype=torch.bool)
    top, left, bottom, right = 0, 0, height - 1, width - 1
    entry = left
    while top <= bottom and left <= right:
        path[top, entry : right + 1] = True
        path[top : bottom + 1, right] = True
        if bottom - top < 2 or right - left < 2:  # no room for the way back
            break
        path[bottom, left : right + 1] = True
        path[top + 2 : bottom + 1, left] = True
        entry = left  # the next turn leaves from the column that the last one came up
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return path


def comb(height: int, width: int) -> Tensor:
    """Teeth that meet in the last row only, (H, W) bool."""
    teeth = torch.zeros(height, width, dtype=torch.bool)
    teeth[:, ::2] = True
    teeth[-1] = True
    return teeth


def checkerboard(height: int, width: int) -> Tensor:
    """Pixels that touch at corners alone, (H, W) bool: one region of 8 neighbors, each its own of 4."""
    return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0


@lru_cache(maxsize=32)
def _street(number: int, height: int, width: int) -> Tensor:
    _, ids = render_scene((0, CAMERA_CITY.seed_key, 1, number), CAMERA_CITY, (width, height))
    table = read_classes("cityscapes").table("target").ids
    return torch.from_numpy(table[ids].astype(np.int64))
