"""The fixed validation pictures that every run leaves behind, and the label space to read them in."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import stuffinstance as si
from stuffinstance.drawing.colours import class_colours

from ..data.pictures import MAX_PIXELS
from .results import Experiment, Run

Pixels = NDArray[np.uint8]
SPACES = {"cityscapes": si.CITYSCAPES, "synthia16": si.SYNTHIA_16, "synthia13": si.SYNTHIA_13}


@dataclass(frozen=True)
class Preview:
    """One validation picture; label maps hold ids of the label space, 255 where nothing is known."""

    name: str
    image: Pixels
    labels: Pixels
    prediction: Pixels

    @property
    def accuracy(self) -> float | None:
        """Share of labelled pixels that are right."""
        known = self.labels != 255
        return float((self.prediction == self.labels)[known].mean()) if known.any() else None


def label_space(experiment: Experiment) -> si.LabelSpace:
    """The space the runs were trained in, from the recipe; Cityscapes where it does not say."""
    for run in experiment.runs:
        if name := run.settings.get("space"):
            key = str(name).lower().replace("_", "")
            if key not in SPACES:
                raise ValueError(
                    f"{run.folder / 'recipe.json'}: space must be one of {', '.join(SPACES)}, got {name!r}. "
                    "Add the space to the report's table to draw its pictures."
                )
            return SPACES[key]
    return si.CITYSCAPES


def read_previews(run: Run) -> dict[str, Preview]:
    """Previews by name in the order of their numbers. Damaged files are left out."""
    found = {}
    for path in sorted((run.folder / "previews").glob("*.npz"), key=lambda p: (len(p.stem), p.stem)):
        try:
            with zipfile.ZipFile(path) as arrays:
                image, *maps = (_bytes_of(arrays, name) for name in ("image", "labels", "prediction"))
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
            continue
        if {each.shape for each in maps} == {image.shape[:2]} and image.shape[2:] == (3,) and image.size:
            found[path.stem] = Preview(path.stem, image, *maps)
    return found


def _bytes_of(arrays: zipfile.ZipFile, name: str) -> Pixels:
    """An array of bytes out of an ``.npz``. Its header bounds what is unpacked: an archive may claim any size."""
    with arrays.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name}: expected version 1.0 of the format, as numpy writes arrays of bytes.")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.uint8 or min(shape, default=1) < 1 or math.prod(shape) > 3 * MAX_PIXELS:
            raise ValueError(f"{name}: expected at most {3 * MAX_PIXELS} bytes, got {dtype} {shape}.")
        content = np.frombuffer(bytearray(file.read(math.prod(shape))), np.uint8)  # tensors want what can be written
    return content.reshape(shape, order="F" if by_columns else "C")


def best_known(experiment: Experiment, recipe: str | None, *, seed: int | None = None) -> Run | None:
    """The run of a recipe to draw: the given seed, else the lowest, and a finished one where there is one."""
    runs = experiment.of(recipe) if recipe else ()
    drawable = [run for run in runs if (run.folder / "previews").is_dir()]
    drawable.sort(key=lambda run: (run.seed != seed, not run.finished, run.seed))
    return drawable[0] if drawable else None


def colour_labels(labels: Pixels, space: si.LabelSpace) -> Pixels:
    """Label ids to the colours of the space; what is ignored stays black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: space.num_classes] = class_colours(space)
    return table[labels]


def encode_png(pixels: Pixels) -> bytes:
    """PNG bytes; label pictures have few colours and shrink well."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def encode_jpeg(pixels: Pixels) -> bytes:
    """JPEG bytes, for photographs only: it would smear the colours of a label map."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def contact_sheet(columns: Sequence[str], rows: Sequence[Sequence[Pixels]], *, width: int = 360) -> Pixels:
    """All pictures in one, a heading above each column: for a README or a slide."""
    gap, head = 6, 30
    heights = [round(row[0].shape[0] * width / row[0].shape[1]) for row in rows]
    sheet = Image.new("RGB", (len(columns) * (width + gap) - gap, head + sum(heights) + gap * (len(rows) - 1)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for column, heading in enumerate(columns):
        pen.text((column * (width + gap) + 2, 4), heading, fill="#1d2329", font=font)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, pixels in enumerate(row):
            how = Image.Resampling.LANCZOS if column == 0 else Image.Resampling.NEAREST
            sheet.paste(Image.fromarray(pixels).resize((width, height), how), (column * (width + gap), top))
        top += height + gap
    return np.asarray(sheet)
