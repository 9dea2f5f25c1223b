"""Connected components by scikit-image, every class of an image in one call."""

from collections.abc import Sequence
from functools import partial

from skimage.measure import label as skimage_label
from torch import Tensor

from stuffinstance.regions.backends.image_by_image import label_images


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in raster order of their first pixel, as scikit-image does."""
    labeler = partial(skimage_label, background=0, connectivity=1 if connectivity == 4 else 2)
    return label_images(labels, classes, ignore_index, labeler)
