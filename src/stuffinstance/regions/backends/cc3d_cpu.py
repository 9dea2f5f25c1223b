"""Connected components by connected-components-3d, every class of an image in one call.

Optional (the extra ``fast``): several times faster than scikit-image. It too numbers regions in raster order, which the
tests hold it to.
"""

from collections.abc import Sequence
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stuffinstance.regions.backends.image_by_image import label_images


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in raster order of their first pixel."""
    neighbors: Literal[4, 8] = 4 if connectivity == 4 else 8

    def labeler(image: NDArray[Any]) -> NDArray[Any]:
        numbers = cc3d.connected_components(image, connectivity=neighbors, out_dtype=np.uint32)
        return numbers.view(np.int32)  # there are fewer than 2^31 pixels: the bytes are the same, and nothing is copied

    return label_images(labels, classes, ignore_index, labeler)
