"""Connected components by connected-components-3d, every class of every image in one call.

Optional (the extra ``fast``): several times faster than scikit-image. It too numbers regions in raster order, which the
tests hold it to.
"""

from collections.abc import Sequence
from functools import partial

import cc3d
import numpy as np
from torch import Tensor

from stuffinstance.regions.backends.stacked_images import label_stacked


def label(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None, connectivity: int) -> Tensor:
    """Number regions in raster order of their first pixel."""
    labeller = partial(cc3d.connected_components, connectivity=connectivity, out_dtype=np.uint32)
    return label_stacked(labels, classes, ignore_index, labeller)
