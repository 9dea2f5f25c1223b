"""One image of a batch as pixels on axes whose unit is a pixel of the label map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance.arguments import check_has_pixels, check_label_map, check_tensor, checked_whole, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
            "Undo the network's normalisation first."
        )
    return np.asarray(pixels.to(torch.float64).clamp(0, 1))


def show(ax: Axes, pixels: NDArray[Any], size: tuple[int, int], **style: Any) -> None:
    """Fill (0, 0) to (W, H) of ``size`` = (H, W), whatever the pixels' own size; y points down."""
    height, width = size
    ax.imshow(pixels, extent=(0, width, height, 0), **style)


def show_grey(ax: Axes, image: Tensor | None, item: int, batch: int, size: tuple[int, int]) -> None:
    """The image, pale and without colour, so that colours drawn over it are the only ones."""
    if image is None:
        return
    pixels = image_pixels(image, item, batch)
    grey = pixels.mean(2) / (255 if pixels.dtype == np.uint8 else 1)
    show(ax, 0.6 * grey + 0.25, size, cmap="gray", vmin=0, vmax=1)


def framed(ax: Axes, size: tuple[int, int]) -> None:
    """Square pixels, no ticks, nothing beside the picture."""
    height, width = size
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_anchor("N")  # what the layout leaves over lies below, where a legend may be
    ax.set_axis_off()


def shown_height(size: tuple[int, int], width: float) -> float:
    """Inches that a picture ``width`` inches wide is high; one that is higher than wide gets as high as wide."""
    return width * min(1.0, size[0] / size[1])
