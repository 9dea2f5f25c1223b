"""Label maps for backends that know one background value: selected ids moved to 1 and up, everything else 0."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stuffinstance.regions.class_table import class_positions

_INT32_VALUES = 2**31


def one_based(labels: Tensor, classes: Sequence[int] | None, ignore_index: int | None) -> Tensor:
    """(B, H, W) int32, contiguous: 0 for what is not to be numbered, different from 1 on where the ids differ.

    No id can be taken for the background, whatever the dtype and the ignored id.
    """
    ids = labels.to(torch.int64).contiguous()
    shifted = _above_zero(ids) if classes is None else class_positions(ids, classes) + 1
    if ignore_index is not None:
        shifted = torch.where(ids != ignore_index, shifted, 0)
    return shifted.to(torch.int32)


def _above_zero(ids: Tensor) -> Tensor:
    lowest, highest = (int(bound) for bound in torch.aminmax(ids))
    if highest - lowest < _INT32_VALUES - 1:
        return ids - (lowest - 1)
    inverse: Tensor = torch.unique(ids, return_inverse=True)[1]
    return inverse + 1
