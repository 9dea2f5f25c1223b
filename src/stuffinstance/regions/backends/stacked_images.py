"""A batch as one tall picture, for libraries that label one picture at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance.regions.backends.one_based import one_based

Labeller = Callable[[NDArray[np.int32]], NDArray[Any]]
"""A picture (H, W), 0 the background, to its regions numbered in raster order."""


def label_stacked(
    labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, labeller: Labeller
) -> Tensor:
    """Stack the images under one another, a row of background between, and label the tall picture once.

    The labeller numbers in raster order, so the numbers of image *b* follow those of the images above it: subtracting
    how many those are gives numbers per image.
    """
    batch, height, width = labels.shape
    stacked = np.zeros((batch, height + 1, width), dtype=np.int32)
    stacked[:, :height] = one_based(labels, classes, ignore_index).numpy()
    numbers = labeller(stacked.reshape(batch * (height + 1), width)).astype(np.int32, copy=False)
    numbers = numbers.reshape(batch, height + 1, width)[:, :height]
    highest = np.maximum.accumulate(numbers.max(axis=(1, 2)))
    above = np.concatenate([[0], highest[:-1]]).astype(np.int32)
    return torch.from_numpy(np.where(numbers > 0, numbers - above[:, None, None], np.int32(0)))
