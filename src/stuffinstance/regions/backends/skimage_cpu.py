"""Connected components by scikit-image, every class of every image in one call."""

from collections.abc import Sequence

import numpy as np
import torch
from skimage.measure import label as skimage_label
from torch import Tensor

from stuffinstance.regions.backends.one_based import one_based


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Stack the images under one another, a row of background between, and label the tall picture once.

    scikit-image numbers regions in raster order, so the numbers of image *b* follow those of the images above it:
    subtracting how many those are gives numbers per image.
    """
    batch, height, width = labels.shape
    stacked = np.zeros((batch, height + 1, width), dtype=np.int32)
    stacked[:, :height] = one_based(labels, classes, ignore_index).numpy()
    numbers = skimage_label(  # type: ignore[no-untyped-call,unused-ignore]
        stacked.reshape(batch * (height + 1), width), background=0, connectivity=1 if connectivity == 4 else 2
    )
    numbers = numbers.reshape(batch, height + 1, width)[:, :height]
    highest = np.maximum.accumulate(numbers.max(axis=(1, 2), initial=0))
    above = np.concatenate([[0], highest[:-1]]).astype(numbers.dtype)
    per_image = np.where(numbers > 0, numbers - above[:, None, None], 0)
    return torch.from_numpy(per_image.astype(np.int32))
