"""Validation images with their predictions, and the regions that matching finds in them."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

import stuffinstance as si
from stuffinstance import plotting
from stuffinstance.plotting.axes import class_colors

from ..data.image_files import MAX_PIXELS
from .charts import Chart, add_legend, draw, legend_shape
from .recipe_names import SOURCE, title
from .results import Experiment, Run
from .tables import adapted_recipe

REGION_IMAGES = 3  # those with the most things


@dataclass(frozen=True)
class Preview:
    """One validation image (H, W, 3); label maps (H, W) hold ids of the label space, 255 where ignored."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def read_previews(run: Run) -> dict[str, Preview]:
    """Previews by name in the order of their numbers. Damaged files are ignored."""
    found = {}
    for path in sorted((run.folder / "previews").glob("*.npz"), key=lambda path: (len(path.stem), path.stem)):
        try:
            with zipfile.ZipFile(path) as arrays:
                image, *maps = (_bytes_of(arrays, name) for name in ("image", "labels", "prediction"))
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
            continue
        if {each.shape for each in maps} == {image.shape[:2]} and image.shape[2:] == (3,) and image.size:
            found[path.stem] = Preview(image, *maps)
    return found


def _bytes_of(arrays: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """An array of bytes out of an ``.npz``. Its header bounds what is unpacked: an archive may claim any size."""
    with arrays.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name}: expected version 1.0 of the format, as numpy writes arrays of bytes.")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.uint8 or min(shape, default=1) < 1 or math.prod(shape) > 3 * MAX_PIXELS:
            raise ValueError(f"{name}: expected at most {3 * MAX_PIXELS} bytes, got {dtype} {shape}.")
        content = np.frombuffer(bytearray(file.read(math.prod(shape))), np.uint8)  # tensors need writable memory
    return content.reshape(shape, order="F" if by_columns else "C")


def preview_runs(experiment: Experiment) -> tuple[Run, ...]:
    """Source only beside the furthest adapted recipe, of the same seed; else the first run with previews."""
    adapted = _drawable(experiment, adapted_recipe(experiment))
    source = _drawable(experiment, SOURCE, seed=adapted.seed if adapted else None)
    runs = [run for run in (source, adapted) if run]
    return tuple(runs or [run for name in experiment.recipes if (run := _drawable(experiment, name))][:1])


def _drawable(experiment: Experiment, recipe: str | None, *, seed: int | None = None) -> Run | None:
    """A run of a recipe with previews: of the given seed, else the lowest, and a finished one if there is one."""
    runs = [run for run in experiment.of(recipe) if read_previews(run)]
    return min(runs, key=lambda run: (run.seed != seed, not run.finished, run.seed), default=None)


def draw_previews(runs: Sequence[Run], space: si.LabelSpace) -> Chart | None:
    """One row per image: the image, its ground truth, and the prediction of each run."""
    previews = [read_previews(run) for run in runs]
    rows = [[each[name] for each in previews] for name in previews[0] if all(name in each for each in previews)]
    if not rows:
        return None
    headings = ("image", "ground truth", *(title(run.recipe) for run in runs))
    maps = [[_batch(m, space) for m in (row[0].labels, *(each.prediction for each in row))] for row in rows]
    notes = [
        ["", _largest(ground_truth, space), *(_correct(ground_truth, each) for each in others)]
        for ground_truth, *others in maps
    ]
    present = sorted(set(torch.cat([each.unique() for row in maps for each in row]).tolist()))
    palette = (class_colors(space) / 255).tolist()
    colors = {space.names[k]: palette[k] for k in present if k != space.ignore_index}
    colors |= {"ignored": [0, 0, 0]} if space.ignore_index in present else {}

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(rows), len(headings), squeeze=False)
        for axes, row, labels, texts in zip(grid, rows, maps, notes, strict=True):
            axes[0].imshow(row[0].image)
            axes[0].set_axis_off()
            axes[0].set_anchor("N")
            for place, each in enumerate(labels, 1):
                plotting.plot_label_map(each, space, legend=False, ax=axes[place])
                if place > 1:
                    axes[place].text(0, -0.03, texts[place], transform=axes[place].transAxes, va="top", fontsize=8)
        for axes, heading in zip(grid[0], headings, strict=True):
            axes.set_title(heading)
        patches = [
            Patch(facecolor=color, edgecolor="gray", linewidth=0.5, label=name) for name, color in colors.items()
        ]
        add_legend(figure, [], {str(patch.get_label()): patch for patch in patches})
        figure.set_layout_engine("compressed")

    said = (
        f"Image {k}: {texts[1]}; " + ", ".join(f"{h} {text}" for h, text in zip(headings[2:], texts[2:], strict=True))
        for k, texts in enumerate(notes, 1)
    )
    alt = f"Validation images, ground truth and predictions. {'. '.join(said)}."
    height = sum(10 / len(headings) * row[0].image.shape[0] / row[0].image.shape[1] + 0.2 for row in rows)
    return draw("previews", alt, (10, height + 0.3 + legend_shape(list(colors), 10)[1]), paint)


def _largest(labels: torch.Tensor, space: si.LabelSpace) -> str:
    """The four largest classes in words."""
    counts = torch.bincount(labels[labels != space.ignore_index], minlength=space.num_classes)
    values, classes = counts.topk(min(4, space.num_classes))
    parts = [f"{space.names[k]} {100 * n / labels.numel():.0f} %" for n, k in zip(values, classes, strict=True) if n]
    return ", ".join(parts) or "nothing labeled"


def _correct(labels: torch.Tensor, prediction: torch.Tensor) -> str:
    """The share of labeled pixels that are right, in words."""
    known = labels != 255
    return f"{100 * (prediction == labels)[known].float().mean():.0f} % of pixels correct" if known.any() else ""


def draw_region_rows(run: Run, space: si.LabelSpace, most: int) -> Chart | None:
    """The regions of the ground truth beside those of the prediction, for the images with the most things."""
    found = [[_batch(m, space) for m in (each.labels, each.prediction)] for each in read_previews(run).values()]
    images = [each.image for each in read_previews(run).values()]
    if not found:
        return None
    order = sorted(range(len(found)), key=lambda k: -_things(found[k][0], space))[:REGION_IMAGES]
    headings = ("ground truth", title(run.recipe))
    notes: list[str] = []

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(order), 2, squeeze=False)
        for axes, k in zip(grid, order, strict=True):
            for each, labels, heading in zip(axes, found[k], headings, strict=True):
                total, outlined = plot_regions(each, images[k], labels, space, most)
                notes.append(f"{heading}: {total} region{'s' * (total != 1)} of things, {outlined} outlined")
                each.set_title(notes[-1], fontsize=8.5)
        figure.set_layout_engine("compressed")

    height = sum(5 * images[k].shape[0] / images[k].shape[1] + 0.25 for k in order)
    chart = draw("regions", "", (10, height), paint)
    return replace(chart, alt=f"Regions over validation images, stuff in its class color. {'; '.join(notes)}.")


def plot_regions(
    axes: Axes, image: NDArray[np.uint8], labels: torch.Tensor, space: si.LabelSpace, most: int
) -> tuple[int, int]:
    """Draw the regions of one image as the library finds them.

    Returns:
        How many regions of things there are, and how many of them are among the ``most`` largest of their class.
    """
    largest = si.instance_regions(labels, space.things, most)
    gray = torch.from_numpy(image).float().mean(2).mul(0.6 / 255).add(0.23).expand(1, 3, -1, -1)
    others = torch.where(largest.region_map > 0, space.ignore_index, labels)
    plotting.plot_label_map(others, space, image=gray, opacity=0.5, legend=False, ax=axes)
    plotting.plot_regions(largest, number="rank", opacity=0.75, ax=axes)
    return _things(labels, space), int(largest.valid.sum())


def _things(labels: torch.Tensor, space: si.LabelSpace) -> int:
    return int(si.connected_components(labels, classes=space.things).max())


def _batch(labels: NDArray[np.uint8], space: si.LabelSpace) -> torch.Tensor:
    """(1, H, W); an id that is not a class is ignored."""
    batch = torch.from_numpy(labels.astype(np.int64))[None]
    return batch.where(batch < space.num_classes, space.ignore_index)
