"""Where to draw: the caller's axes, or new ones on a figure that no global state knows of."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance._backends import BackendUnavailableError
from stuffinstance._checks import check_has_pixels, check_label_map, check_tensor, checked_whole, describe
from stuffinstance.label_space import LabelSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

README_WIDTH = 7.0  # inches; text of 9 points is then readable in a column of 800 pixels


def axes_on(ax: Axes | None, height: float, width: float = README_WIDTH) -> Axes:
    """The caller's axes, or the only ones of a new figure of that many inches.

    Raises:
        BackendUnavailableError: If matplotlib is not installed.
        TypeError: If ``ax`` is not an ``Axes``.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendUnavailableError(
            "plotting needs the package 'matplotlib', which is not installed. Install it with: pip install matplotlib."
        )
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if ax is None:
        # Not by pyplot: it would keep the figure alive and choose a window system.
        return Figure(figsize=(width, height), layout="constrained").subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib Axes or None, got {type(ax).__name__}. Pass one of figure.subplots().")
    return ax


def whole_figure(ax: Axes) -> Figure:
    """The figure that the axes are on, also where they are on a part of one."""
    return ax.figure.figure


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes as they are now."""
    box, dots = ax.get_window_extent(), whole_figure(ax).dpi
    return box.width / dots, box.height / dots


class Ink(NamedTuple):
    """Colors of the style in force: of words, of words that matter less, and of what lies behind."""

    text: Any
    soft: Any
    pale: Any


def ink() -> Ink:
    """The colors that ``rcParams`` give now, so that a dark style makes a dark image."""
    from matplotlib import rcParams
    from matplotlib.colors import to_rgba

    # Not grid.color: in some styles lines of a grid are as bright as text, which a broad bar may not be.
    text = rcParams["text.color"]
    return Ink(text, rcParams["axes.labelcolor"], to_rgba(text, 0.15))


# Okabe and Ito's palette, distinguishable with every common kind of color blindness.
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

# Of regions: bright and far apart in lightness as well as hue; neighbors in the list differ most.
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


def class_colors(space: LabelSpace) -> NDArray[np.uint8]:
    """The palette, (K, 3); without one Okabe and Ito's eight colors, then lighter, then darker ones, then again."""
    if space.palette is not None:
        return np.array(space.palette, dtype=np.uint8)
    plain = np.array(_OKABE_ITO, dtype=np.float64)
    table = np.concatenate([plain, 0.5 * plain + 127, 0.55 * plain])
    return table[np.arange(space.num_classes) % len(table)].astype(np.uint8)


def run_color(number: int) -> str:
    """The color of the run of that number, from 0: eight in turn."""
    return as_hex(np.array(_OKABE_ITO[number % len(_OKABE_ITO)], dtype=np.uint8))


def region_colors(numbers: NDArray[np.integer]) -> NDArray[np.uint8]:
    """A color for each region by its number, (..., 3): eight in turn."""
    table = np.array(_REGIONS, dtype=np.uint8)
    return np.asarray(table[numbers % len(_REGIONS)])


def as_hex(color: NDArray[np.uint8]) -> str:
    """A color as matplotlib and HTML write it."""
    red, green, blue = (int(value) for value in color)
    return f"#{red:02x}{green:02x}{blue:02x}"


COLUMNS = 6  # of a legend, at most


def legend_shape(
    labels: Sequence[str], width: float = 0.8 * README_WIDTH, columns: int = COLUMNS, fontsize: float = 9.0
) -> tuple[int, float]:
    """Columns of a legend ``width`` inches wide, ``columns`` at most, and about how many inches high it becomes.

    The default width is about that of axes with names of classes on their left.
    """
    em = fontsize / 72
    widths = [em * (0.55 * len(label) + 4) for label in labels]  # with its mark, and the gap to the next column
    fitting = (n for n in range(min(columns, len(labels)), 1, -1) if sum(max(widths[k::n]) for k in range(n)) <= width)
    columns = next(fitting, 1)
    return columns, em * (0.6 + 1.55 * -(-len(labels) // columns)) if labels else 0.0


def in_rows(entries: Sequence[Any], columns: int) -> list[Any]:
    """Entries in the order that matplotlib, which fills columns, needs to have them read along the rows."""
    return [entries[k] for first in range(columns) for k in range(first, len(entries), columns)]


def add_legend(ax: Axes, place: Literal["above", "below"], handles: Sequence[Any] | None = None) -> None:
    """A legend of ``handles``, by default all labeled ones, above or below the axes; without handles no legend."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    from matplotlib import rcParams

    figure, fontsize = whole_figure(ax), min(9.0, float(rcParams["font.size"]))
    figure.draw_without_rendering()  # so that it is known how wide the axes become
    labels = [str(handle.get_label()) for handle in handles]
    columns, _ = legend_shape(labels, inches(ax)[0], COLUMNS, fontsize)
    ax.legend(
        handles=in_rows(handles, columns),
        loc="lower left" if place == "above" else "upper left",
        bbox_to_anchor=(0, 1.0 if place == "above" else 0.0),
        ncols=columns,
        fontsize=fontsize,
        frameon=False,
        borderpad=0.2,
        borderaxespad=0.3,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def check_item(item: int, batch: int) -> None:
    """Require the place of an image in the batch."""
    number = checked_whole("item", item)
    if not 0 <= number < batch:
        raise ValueError(f"item must be the place of an image in the batch, 0..{batch - 1}, got {item!r}.")


def label_pixels(name: str, labels: Tensor, item: int) -> NDArray[np.int64]:
    """One map of (B, H, W), on the host."""
    check_label_map(name, labels)
    check_has_pixels(name, labels)
    check_item(item, labels.shape[0])
    return np.asarray(labels[item].detach().to("cpu", torch.int64))


def image_pixels(image: Tensor, item: int, batch: int) -> NDArray[Any]:
    """One image of (B, 3, H, W) as (H, W, 3), uint8 or float64 of 0..1."""
    check_tensor("image", "a tensor (B, 3, H, W)", image)
    if image.ndim != 4 or image.shape[:2] != (batch, 3) or not image.numel():
        raise ValueError(
            f"image must be a tensor (B, 3, H, W) with the labels' B = {batch}, got {describe(image)}. "
            "For one image pass image[None]; its H and W may differ from the labels'."
        )
    pixels = image[item].detach().cpu().permute(1, 2, 0)
    if pixels.dtype == torch.uint8:
        return np.asarray(pixels)
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not pixels.is_floating_point() or not (lowest >= -1e-3 and highest <= 1 + 1e-3):
        raise ValueError(
            f"image must be uint8, or floating within 0..1, got {image.dtype} from {lowest:.4g} to {highest:.4g}. "
            "Undo the network's normalization first."
        )
    return np.asarray(pixels.to(torch.float64).clamp(0, 1))


def show(ax: Axes, pixels: NDArray[Any], size: tuple[int, int], **style: Any) -> None:
    """Fill (0, 0) to (W, H) of ``size`` = (H, W), whatever the pixels' own size; y points down."""
    height, width = size
    ax.imshow(pixels, extent=(0, width, height, 0), **style)


def show_gray(ax: Axes, image: Tensor | None, item: int, batch: int, size: tuple[int, int]) -> None:
    """The image, pale and without color, so that colors drawn over it are the only ones."""
    if image is None:
        return
    pixels = image_pixels(image, item, batch)
    gray = pixels.mean(2) / (255 if pixels.dtype == np.uint8 else 1)
    show(ax, 0.6 * gray + 0.25, size, cmap="gray", vmin=0, vmax=1)


def framed(ax: Axes, size: tuple[int, int]) -> None:
    """Square pixels, no ticks, nothing beside the image."""
    height, width = size
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_anchor("N")  # what the layout leaves over lies below, where a legend may be
    ax.set_axis_off()


def shown_height(size: tuple[int, int], width: float) -> float:
    """Inches that an image ``width`` inches wide is high; one that is higher than wide gets as high as wide."""
    return width * min(1.0, size[0] / size[1])
