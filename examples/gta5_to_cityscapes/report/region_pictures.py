"""The regions that matching works on, drawn over the image: stuff hatched, every thing its own colour.

The library's own ``connected_components``, ``instance_regions`` and ``stuff_regions`` decide what is
drawn, so a wrong region in training would be a wrong region here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import stuffinstance as si

from .ablation_table import adapted_recipe
from .picture_rows import Cell
from .previews import (
    Pixels,
    Preview,
    best_known,
    colour_labels,
    encode_png,
    read_previews,
)
from .recipe_names import SOURCE, title
from .results import Experiment, Run

PICTURES = 3
WIDTH = 480  # smaller pictures are enlarged before drawing, or outlines would cover what they enclose
# Bright and far apart in lightness as well as hue; neighbours in the list differ most.
_INSTANCE_COLORS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (240, 228, 66),
        (204, 121, 167),
        (0, 200, 150),
        (255, 110, 60),
        (150, 150, 255),
        (190, 230, 120),
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class RegionPictures:
    """Truth and prediction side by side, for the first few previews."""

    rows: tuple[tuple[Cell, ...], ...]
    run: Run
    stuff_names: tuple[str, ...]
    largest: int


def build_region_pictures(experiment: Experiment, space: si.LabelSpace) -> RegionPictures | None:
    """Regions in the truth and in the prediction of the furthest adapted recipe (or of source only)."""
    run = best_known(experiment, adapted_recipe(experiment)) or best_known(experiment, SOURCE)
    previews = list(read_previews(run).values()) if run else []
    if run is None or not previews:
        return None
    chosen = sorted(previews, key=lambda preview: -_things(preview, space))[:PICTURES]
    largest = int((run.settings.get("matching") or {}).get("max_instances", 10))
    rows = tuple(_row(preview, run, space, largest) for preview in chosen)
    return RegionPictures(rows, run, tuple(space.names[k] for k in space.stuff), largest)


def _things(preview: Preview, space: si.LabelSpace) -> int:
    """How many regions of things the truth holds: pictures with many show most."""
    return int(si.connected_components(_batch(preview.labels), classes=space.things).max())


def _row(preview: Preview, run: Run, space: si.LabelSpace, most: int) -> tuple[Cell, ...]:
    cells = []
    for heading, labels in (("truth", preview.labels), (title(run.recipe), preview.prediction)):
        pixels, total, outlined = draw_regions(preview.image, labels, space, most)
        note = f"{total} regions of things, {outlined} outlined"
        alt = f"Regions in preview {preview.name}, {heading}: {note}; stuff is hatched in its class colour."
        cells.append(Cell(heading, note, alt, encode_png(pixels)))
    return tuple(cells)


def draw_regions(image: Pixels, labels: Pixels, space: si.LabelSpace, most: int = 10) -> tuple[Pixels, int, int]:
    """The picture, the number of thing regions and how many of them are among the largest of their class."""
    batch = _batch(labels)
    components = si.connected_components(batch, classes=space.things)[0].numpy()
    largest = si.instance_regions(batch, space.things, most)
    stuff = si.stuff_regions(batch, space.stuff).map[0].numpy() > 0
    numbers, total = largest.map[0].numpy(), int(components.max())
    factor = -(-WIDTH // labels.shape[1])
    image, labels, components, stuff, numbers = (
        _enlarged(pixels, factor) for pixels in (image, labels, components, stuff, numbers)
    )
    canvas = np.repeat(image.astype(np.float32).mean(2, keepdims=True), 3, axis=2) * 0.6 + 60
    _hatch(canvas, stuff, colour_labels(labels, space))
    things = components > 0
    canvas[things] = 0.25 * canvas[things] + 0.75 * _INSTANCE_COLORS[components[things] % len(_INSTANCE_COLORS)]
    edges = _edges(numbers)
    canvas[_grow(edges) & ~edges & (numbers == 0)] *= 0.35
    canvas[edges] = 255
    pixels = canvas.clip(0, 255).astype(np.uint8)
    return _numbered(pixels, numbers, most), total, int(largest.valid.sum())


def _enlarged(pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    """Every pixel as a block of ``factor`` by ``factor``: exact, as label maps need."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _batch(labels: Pixels) -> torch.Tensor:
    return torch.from_numpy(labels.astype(np.int64))[None]


def _hatch(canvas: NDArray[np.floating[Any]], stuff: NDArray[np.bool_], colors: Pixels) -> None:
    """Tint stuff in its class colour, stronger on diagonal stripes."""
    down, across = np.indices(stuff.shape)
    stripe = (down + across) % 10 < 3
    for mask, share in ((stuff & stripe, 0.75), (stuff & ~stripe, 0.4)):
        canvas[mask] = (1 - share) * canvas[mask] + share * colors[mask]


def _edges(numbers: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels just outside a numbered region: drawn inside, an outline would hide a thin pole."""
    padded = np.pad(numbers, 1)
    centre = padded[1:-1, 1:-1]
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    outside = [(side > 0) & (side != centre) for side in sides]
    return np.asarray(np.logical_or.reduce(outside))


def _grow(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.asarray(np.logical_or.reduce([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]))


def _numbered(pixels: Pixels, numbers: NDArray[np.int32], most: int) -> Pixels:
    """Write the rank within its class on every outlined region that has room for it."""
    picture = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(11, pixels.shape[0] // 22))
    for number in np.unique(numbers[numbers > 0]).tolist():
        rows, columns = np.nonzero(numbers == number)
        if len(rows) < 250:
            continue
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)  # a pixel of the region itself
        text = str((number - 1) % most + 1)
        place = (int(columns[middle]), int(rows[middle]))
        pen.text(place, text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    return np.asarray(picture)
