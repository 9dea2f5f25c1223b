"""Validation images with their predictions, and the regions that matching finds in them."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

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
from .results import SOURCE, Experiment, Run, title
from .tables import adapted_recipes

REGION_IMAGES = 3  # those with the most things


class Preview(NamedTuple):
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
    """Source only beside the adapted recipes, of the same seed; else the first run with previews."""
    runs: list[Run] = []
    for name in (*adapted_recipes(experiment), SOURCE):
        if run := _drawable(experiment, name, seed=runs[0].seed if runs else None):
            runs.append(run)
    runs.sort(key=lambda run: run.recipe != SOURCE)
    return tuple(runs or [run for name in experiment.recipes if (run := _drawable(experiment, name))][:1])


def _drawable(experiment: Experiment, recipe: str, *, seed: int | None = None) -> Run | None:
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
    present = sorted(set(torch.cat([each.unique() for row in maps for each in row]).tolist()))
    palette = (class_colors(space) / 255).tolist()
    colors = {space.names[k]: palette[k] for k in present if k != space.ignore_index}
    colors |= {"ignored": [0, 0, 0]} if space.ignore_index in present else {}

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(rows), len(headings), squeeze=False)
        for axes, row, (ground_truth, *predictions) in zip(grid, rows, maps, strict=True):
            axes[0].imshow(row[0].image)
            axes[0].set_axis_off()
            axes[0].set_anchor("N")
            for each, labels in zip(axes[1:], (ground_truth, *predictions), strict=True):
                plotting.plot_label_map(labels, space, legend=False, ax=each)
            for each, labels in zip(axes[2:], predictions, strict=True):
                each.text(0, -0.03, _correct(ground_truth, labels), transform=each.transAxes, va="top", fontsize=8)
        for axes, heading in zip(grid[0], headings, strict=True):
            axes.set_title(heading)
        edge = {"edgecolor": "gray", "linewidth": 0.5}
        add_legend(figure, [], {name: Patch(facecolor=color, **edge) for name, color in colors.items()})
        figure.set_layout_engine("compressed")

    alt = f"Validation images, each with its ground truth and the prediction of {' and of '.join(headings[2:])}."
    height = sum(10 / len(headings) * row[0].image.shape[0] / row[0].image.shape[1] + 0.2 for row in rows)
    return draw("previews", alt, (10, height + 0.3 + legend_shape(list(colors), 10)[1]), paint)


def _correct(labels: torch.Tensor, prediction: torch.Tensor) -> str:
    """The share of labeled pixels that are right, in words."""
    known = labels != 255
    return f"{100 * (prediction == labels)[known].float().mean():.0f} % of pixels correct" if known.any() else ""


def draw_region_rows(run: Run, space: si.LabelSpace, most: int) -> Chart | None:
    """The regions of the ground truth beside those of the prediction, for the images with the most things."""
    found = [
        (each.image, _batch(each.labels, space), _batch(each.prediction, space)) for each in read_previews(run).values()
    ]
    if not found:
        return None
    rows = sorted(found, key=lambda row: -_things(row[1], space))[:REGION_IMAGES]

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(rows), 2, squeeze=False)
        for axes, (image, *maps) in zip(grid, rows, strict=True):
            for each, labels, heading in zip(axes, maps, ("ground truth", title(run.recipe)), strict=True):
                total, outlined = plot_regions(each, image, labels, space, most)
                each.set_title(
                    f"{heading}: {total} region{'s' * (total != 1)} of things, {outlined} outlined", fontsize=8.5
                )
        figure.set_layout_engine("compressed")

    alt = "Regions over validation images, of the ground truth and of the prediction; stuff in its class color."
    height = sum(5 * image.shape[0] / image.shape[1] + 0.25 for image, *_ in rows)
    return draw("regions", alt, (10, height), paint)


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
