"""Label maps in the colors of their classes, alone or over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from stuffinstance._checks import check_class_ids, check_kind, checked_flag, checked_fraction
from stuffinstance.label_space import LabelSpace
from stuffinstance.plotting.axes import (
    README_WIDTH,
    add_legend,
    as_hex,
    axes_on,
    class_colors,
    framed,
    image_pixels,
    label_pixels,
    legend_shape,
    show,
    shown_height,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_label_map(
    labels: Tensor,
    space: LabelSpace,
    *,
    image: Tensor | None = None,
    item: int = 0,
    opacity: float = 0.6,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Label map in the palette of its space.

    Args:
        labels: Class ids, (B, H, W), any integer dtype; ``space.ignore_index`` stays without color: black, or the
            image.
        space: Names and palette. Without a palette colors stay distinct with color blindness, for up to 8 classes.
        image: (B, 3, H', W'), uint8 or floating of 0..1, of any size: drawn below the labels.
        item: Which image of the batch.
        opacity: Of the labels over an image, 0..1; without one they cover.
        legend: Name the classes that occur, below the image.
        ax: Where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If ranks, dtypes or batch sizes do not fit, an id is not a class, or ``item`` or ``opacity`` is out
            of range.
        BackendUnavailableError: If matplotlib is not installed.

    Example:
        >>> space = LabelSpace(names=("road", "sky", "car"), stuff=(0, 1), things=(2,))
        >>> ax = plot_label_map(torch.tensor([[[1, 1, 1], [0, 2, 255]]]), space)
        >>> sorted(text.get_text() for text in ax.get_legend().get_texts())
        ['car', 'not labeled', 'road', 'sky']
        >>> ax.figure.savefig("labels.png")                              # doctest: +SKIP
    """
    check_kind("space", space, LabelSpace)
    pixels = label_pixels("labels", labels, item)
    check_class_ids("labels", labels[item].cpu(), space.num_classes, space.ignore_index)
    opacity = checked_fraction("opacity", opacity)
    legend = checked_flag("legend", legend)
    known = pixels != space.ignore_index
    colors = class_colors(space)
    painted = np.zeros((*pixels.shape, 4), dtype=np.uint8)
    painted[known, :3] = colors[pixels[known]]
    painted[..., 3] = 255 if image is None else np.where(known, round(255 * opacity), 0)
    present = [k for k in range(space.num_classes) if (pixels == k).any()]
    names = [space.names[k] for k in present] + ["not labeled"] * (not known.all())
    below = legend_shape(names, README_WIDTH - 0.2)[1] if legend else 0.0
    ax = axes_on(ax, shown_height(pixels.shape, README_WIDTH) + below + 0.1)
    framed(ax, pixels.shape)
    if legend:
        from matplotlib.patches import Patch

        shown = [as_hex(colors[k]) for k in present] + ["black" if image is None else "none"] * (not known.all())
        patches = [
            Patch(facecolor=color, edgecolor="gray", linewidth=0.5, label=name)
            for color, name in zip(shown, names, strict=True)
        ]
        add_legend(ax, "below", patches)
    if image is not None:
        show(ax, image_pixels(image, item, labels.shape[0]), pixels.shape)
    show(ax, painted, pixels.shape, interpolation="nearest")
    return ax
