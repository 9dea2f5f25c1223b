"""Label maps in the colours of their classes, alone or over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from stuffinstance.arguments import check_class_ids, check_kind, checked_flag, checked_fraction
from stuffinstance.drawing.canvas import README_WIDTH, axes_on
from stuffinstance.drawing.colours import as_hex, class_colours
from stuffinstance.drawing.legends import add_legend, legend_shape
from stuffinstance.drawing.pixels import framed, image_pixels, label_pixels, show, shown_height
from stuffinstance.labelspace import LabelSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_label_map(
    labels: Tensor,
    space: LabelSpace,
    *,
    image: Tensor | None = None,
    item: int = 0,
    opacity: float = 0.6,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw one label map in the palette of its space.

    Args:
        labels: Class ids, (B, H, W), any integer dtype; ``space.ignore_index`` stays without colour: black, or the
            image.
        space: Names and palette. Without a palette colours are told apart by the colour-blind, for up to 8 classes.
        image: (B, 3, H', W'), uint8 or floating of 0..1, of any size: drawn below the labels.
        item: Which image of the batch.
        opacity: Of the labels over an image, 0..1; without one they cover.
        legend: Name the classes that occur, below the picture.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If ranks, dtypes or batch sizes do not fit, an id is no class, or ``item`` or ``opacity`` is out of
            range.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "sky", "car"), stuff=(0, 1), things=(2,))
        >>> ax = draw_label_map(torch.tensor([[[1, 1, 1], [0, 2, 255]]]), space)
        >>> sorted(text.get_text() for text in ax.get_legend().get_texts())
        ['car', 'not labelled', 'road', 'sky']
        >>> ax.figure.savefig("labels.png")                              # doctest: +SKIP
    """
    check_kind("space", space, LabelSpace)
    pixels = label_pixels("labels", labels, item)
    check_class_ids("labels", labels[item].cpu(), space.num_classes, space.ignore_index)
    opacity = checked_fraction("opacity", opacity)
    legend = checked_flag("legend", legend)
    known = pixels != space.ignore_index
    colours = class_colours(space)
    painted = np.zeros((*pixels.shape, 4), dtype=np.uint8)
    painted[known, :3] = colours[pixels[known]]
    painted[..., 3] = 255 if image is None else np.where(known, round(255 * opacity), 0)
    present = [k for k in range(space.num_classes) if (pixels == k).any()]
    names = [space.names[k] for k in present] + ["not labelled"] * (not known.all())
    below = legend_shape(names, README_WIDTH - 0.2)[1] if legend else 0.0
    ax = axes_on(ax, shown_height(pixels.shape, README_WIDTH) + below + 0.1)
    framed(ax, pixels.shape)
    if legend:
        from matplotlib.patches import Patch

        shown = [as_hex(colours[k]) for k in present] + ["black" if image is None else "none"] * (not known.all())
        patches = [
            Patch(facecolor=colour, edgecolor="grey", linewidth=0.5, label=name)
            for colour, name in zip(shown, names, strict=True)
        ]
        add_legend(ax, "below", patches)
    if image is not None:
        show(ax, image_pixels(image, item, labels.shape[0]), pixels.shape)
    show(ax, painted, pixels.shape, interpolation="nearest")
    return ax
