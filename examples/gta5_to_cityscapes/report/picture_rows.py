"""Rows of pictures: image, truth, source only, adapted, all of the same validation images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import stuffinstance as si

from .ablation_table import adapted_recipe
from .previews import (
    Preview,
    best_known,
    colour_labels,
    contact_sheet,
    encode_jpeg,
    encode_png,
    read_previews,
)
from .recipe_names import SOURCE, title
from .results import Experiment, Run


@dataclass(frozen=True)
class Cell:
    """One encoded picture of a row."""

    heading: str
    note: str
    alt: str
    data: bytes
    kind: str = "png"


@dataclass(frozen=True)
class LegendEntry:
    """A class and its colour; only classes that occur in the pictures are listed."""

    name: str
    color: str
    role: str


@dataclass(frozen=True)
class PictureRows:
    """What the page shows and ``pictures.png``, the same in one file."""

    rows: tuple[tuple[Cell, ...], ...]
    legend: tuple[LegendEntry, ...]
    sheet: bytes
    runs: tuple[Run, ...]


def build_picture_rows(experiment: Experiment, space: si.LabelSpace) -> PictureRows | None:
    """Source only beside the furthest adapted recipe, same seed; ``None`` without any previews."""
    runs = _runs_to_show(experiment)
    if not runs:
        return None
    previews = [read_previews(run) for run in runs]
    names = [name for name in previews[0] if all(name in one for one in previews)]
    if not names:
        return None
    shown = [[one[name] for one in previews] for name in names]
    headings = ("image", "truth", *(title(run.recipe) for run in runs))
    sheet = contact_sheet(
        headings,
        [
            [row[0].image, *(colour_labels(m, space) for m in (row[0].labels, *(p.prediction for p in row)))]
            for row in shown
        ],
    )
    rows = tuple(_row(k, row, runs, space) for k, row in enumerate(shown, 1))
    return PictureRows(rows, _legend(shown, space), encode_png(sheet), runs)


def _runs_to_show(experiment: Experiment) -> tuple[Run, ...]:
    adapted = best_known(experiment, adapted_recipe(experiment))
    source = best_known(experiment, SOURCE, seed=adapted.seed if adapted else None)
    runs = tuple(run for run in (source, adapted) if run)
    return runs or tuple(run for name in experiment.recipes if (run := best_known(experiment, name)))[:1]


def _row(number: int, row: list[Preview], runs: tuple[Run, ...], space: si.LabelSpace) -> tuple[Cell, ...]:
    where = f"validation image {number}"
    cells = [
        Cell("image", "", f"Photograph: {where}.", encode_jpeg(row[0].image), "jpeg"),
        Cell(
            "truth",
            "",
            f"True classes of {where}: {_content(row[0].labels, space)}.",
            _png(row[0].labels, space),
        ),
    ]
    for preview, run in zip(row, runs, strict=True):
        share = preview.accuracy
        note = "" if share is None else f"{100 * share:.0f} % of pixels right"
        alt = f"Classes predicted by {title(run.recipe)} for {where}: {_content(preview.prediction, space)}. {note}"
        cells.append(Cell(title(run.recipe), note, alt, _png(preview.prediction, space)))
    return tuple(cells)


def _png(labels: np.ndarray, space: si.LabelSpace) -> bytes:
    return encode_png(colour_labels(labels, space))


def _content(labels: np.ndarray, space: si.LabelSpace) -> str:
    """The four largest classes in words, for readers who do not see the picture."""
    counts = np.bincount(labels.ravel(), minlength=256)[: space.num_classes]
    order = [int(k) for k in np.argsort(-counts)[:4] if counts[k]]
    return ", ".join(f"{space.names[k]} {100 * counts[k] / labels.size:.0f} %" for k in order) or "nothing labelled"


def _legend(rows: list[list[Preview]], space: si.LabelSpace) -> tuple[LegendEntry, ...]:
    maps = [m for row in rows for preview in row for m in (preview.labels, preview.prediction)]
    present = set(np.unique(np.concatenate([np.unique(m) for m in maps])).tolist())
    colors = colour_labels(np.arange(256, dtype=np.uint8), space)
    entries = [
        LegendEntry(name, "#{:02x}{:02x}{:02x}".format(*colors[k]), "thing" if k in space.things else "stuff")
        for k, name in enumerate(space.names)
        if k in present
    ]
    return (*entries, LegendEntry("not labelled", "#000000", "ignored")) if 255 in present else tuple(entries)
