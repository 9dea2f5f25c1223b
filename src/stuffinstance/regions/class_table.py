"""Class ids as a table on the device, copied there once: a copy per call would make a GPU wait."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def class_ids_on(classes: tuple[int, ...], device: torch.device) -> Tensor:
    """The ids, (C,) int64. Shared between calls: do not write into it."""
    with torch.inference_mode(False):
        return torch.tensor(classes, dtype=torch.int64, device=device)


@lru_cache(maxsize=256)
def _ordered(classes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The ids in rising order and where each stood."""
    with torch.inference_mode(False):
        ids, places = class_ids_on(classes, device).sort()
        return ids, places


def class_positions(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Where each label stands in ``classes``, -1 where it does not; one look-up a pixel, whatever the ids.

    Args:
        labels: Class ids of any integer dtype and shape.
        classes: C distinct ids.

    Returns:
        int64, shape of ``labels``.
    """
    positions: Tensor = torch.ops.stuffinstance.class_positions(labels, list(classes))
    return positions


# One operator to the compiler: it would copy the table into every graph, and warn about the cache.
@torch.library.custom_op(
    "stuffinstance::class_positions", mutates_args=(), schema="(Tensor labels, int[] classes) -> Tensor"
)
def _positions(labels: Tensor, classes: list[int]) -> Tensor:
    ids = labels.to(torch.int64).contiguous()
    if not classes:
        return torch.full_like(ids, -1)
    ordered, places = _ordered(tuple(classes), labels.device)
    found = torch.searchsorted(ordered, ids).clamp_(max=len(classes) - 1)
    return torch.where(ordered[found] == ids, places[found], -1)


@_positions.register_fake
def _(labels: Tensor, classes: list[int]) -> Tensor:
    return torch.empty_like(labels, dtype=torch.int64, memory_format=torch.contiguous_format)
