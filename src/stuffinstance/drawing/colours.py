"""Colours of classes and of single regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stuffinstance.labelspace import LabelSpace

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (140, 140, 140),
)
STUFF_BAR, THING_BAR, MARK = "#56b4e9", "#e69f00", "#d55e00"

# Of regions: bright and far apart in lightness as well as hue; neighbours in the list differ most.
_REGIONS = (
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (204, 121, 167),
    (0, 200, 150),
    (255, 110, 60),
    (150, 150, 255),
    (190, 230, 120),
)


def class_colours(space: LabelSpace) -> NDArray[np.uint8]:
    """The palette, (K, 3); without one Okabe and Ito's eight colours, then lighter, then darker ones, then again."""
    if space.palette is not None:
        return np.array(space.palette, dtype=np.uint8)
    plain = np.array(_OKABE_ITO, dtype=np.float64)
    table = np.concatenate([plain, 0.5 * plain + 127, 0.55 * plain])
    return table[np.arange(space.num_classes) % len(table)].astype(np.uint8)


def run_colour(number: int) -> str:
    """The colour of the run of that number, from 0: eight in turn."""
    return as_hex(np.array(_OKABE_ITO[number % len(_OKABE_ITO)], dtype=np.uint8))


def region_colours(numbers: NDArray[np.integer]) -> NDArray[np.uint8]:
    """A colour for each region by its number, (..., 3): eight in turn."""
    table = np.array(_REGIONS, dtype=np.uint8)
    return np.asarray(table[numbers % len(_REGIONS)])


def as_hex(colour: NDArray[np.uint8]) -> str:
    """A colour as matplotlib and HTML write it."""
    red, green, blue = (int(value) for value in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"
