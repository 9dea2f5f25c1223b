"""The regions that matching works on, drawn over the image: stuff in its class colour, things in their own.

The library's own ``connected_components``, ``instance_regions`` and ``stuff_regions`` decide what is
drawn, so a wrong region in training would be a wrong region here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

import stuffinstance as si
from stuffinstance import drawing

from .ablation_table import adapted_recipe
from .drawn_figure import encode_figure
from .picture_rows import Cell
from .previews import Pixels, Preview, best_known, read_previews
from .recipe_names import SOURCE, title
from .results import Experiment, Run

PICTURES = 3
WIDTH = 4.8  # inches, at 150 dots an inch


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
        figure, total, outlined = draw_regions(preview.image, labels, space, most)
        note = f"{total} region{'' if total == 1 else 's'} of things, {outlined} outlined"
        alt = f"Regions in preview {preview.name}, {heading}: {note}; stuff is in its class colour."
        cells.append(Cell(heading, note, alt, encode_figure(figure)))
    return tuple(cells)


def draw_regions(image: Pixels, labels: Pixels, space: si.LabelSpace, most: int = 10) -> tuple[Figure, int, int]:
    """The picture, the number of thing regions and how many of them are among the largest of their class."""
    batch = _batch(labels)
    total = int(si.connected_components(batch, classes=space.things).max())
    largest = si.instance_regions(batch, space.things, most)
    height, width = labels.shape
    figure = Figure(figsize=(WIDTH, WIDTH * height / width), dpi=150)
    ax = figure.add_axes((0, 0, 1, 1))
    grey = torch.from_numpy(image).float().mean(2).mul(0.6 / 255).add(0.23).expand(1, 3, -1, -1)
    others = torch.where(largest.map > 0, space.ignore_index, batch)
    drawing.draw_label_map(others, space, image=grey, opacity=0.5, legend=False, ax=ax)
    drawing.draw_regions(largest, number="rank", opacity=0.75, ax=ax)
    return figure, total, int(largest.valid.sum())


def _batch(labels: Pixels) -> torch.Tensor:
    return torch.from_numpy(labels.astype(np.int64))[None]
