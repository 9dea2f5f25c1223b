"""Connected components by flood fill: the definition, pixel by pixel. For tests and for reading, not for speed."""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stuffinstance.regions.backends.image_by_image import one_based

_EDGES = ((-1, 0), (0, -1), (0, 1), (1, 0))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in the order in which a raster scan first meets them."""
    values = one_based(labels, classes, ignore_index)
    steps = _EDGES if connectivity == 4 else _EDGES + _CORNERS
    numbers = np.zeros(values.shape, dtype=np.int32)
    for image, out in zip(values.numpy(), numbers, strict=True):
        count = 0
        for seed in zip(*np.nonzero(image), strict=True):
            if out[seed] == 0:
                count += 1
                _flood(image, out, seed, count, steps)
    return torch.from_numpy(numbers)


def _flood(
    image: np.ndarray, out: np.ndarray, seed: tuple[int, ...], number: int, steps: tuple[tuple[int, int], ...]
) -> None:
    height, width = image.shape
    out[seed] = number
    border = deque([seed])
    while border:
        y, x = border.popleft()
        for dy, dx in steps:
            near = (y + dy, x + dx)
            inside = 0 <= near[0] < height and 0 <= near[1] < width
            if inside and out[near] == 0 and image[near] == image[y, x]:
                out[near] = number
                border.append(near)
