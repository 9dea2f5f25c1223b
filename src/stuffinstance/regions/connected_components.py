"""Connected components of label maps."""

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from stuffinstance._backends import check_backend, register_operator, resolve
from stuffinstance._checks import check_label_map, checked_classes, checked_whole, optional_ignore_index
from stuffinstance.regions.backends import BACKENDS

_INT32_PIXELS = 2**31


def connected_components(
    labels: Tensor,
    *,
    classes: Sequence[int] | None = None,
    connectivity: Literal[4, 8] = 8,
    ignore_index: int | None = 255,
    backend: str = "auto",
) -> Tensor:
    """Connected components of each image of a label map, all classes together.

    Numbers follow the raster order of each region's first pixel, so every backend returns the same tensor, bit for
    bit. Exact for any shape of region: snakes, spirals, combs.

    Args:
        labels: Class ids, (B, H, W), any integer dtype; ids may be negative or large. Or a bool mask, of which True
            is class 1 and False the background.
        classes: The ids to number; the rest becomes 0. Default: every id but ``ignore_index``.
        connectivity: 4 joins pixels that share an edge, 8 also those that share a corner (SIM uses 8).
        ignore_index: Pixels of this id become 0; None ignores no id. It may not be one of ``classes``: pass None to
            number the regions of id 255.
        backend: ``"auto"`` (the first of the table that runs on the labels' device), ``"numba"`` (CPU, with the extra
            ``fast``), ``"skimage"`` (CPU), ``"torch"`` (any device; it waits for the device), ``"triton"`` (CUDA; it
            never waits; only by name) or ``"reference"`` (flood fill in Python).

    Returns:
        Region numbers, (B, H, W) int32 on the labels' device: 0 outside, then 1, 2, ... per image.

    Raises:
        TypeError: If ``labels`` is not a tensor, or an id or ``connectivity`` is not a whole number.
        ValueError: If ``labels`` is not a 3-D integer or bool tensor, ``connectivity`` is not 4 or 8, ``classes`` are
            not distinct ids or hold ``ignore_index``, or the batch holds 2\\ :sup:`31` pixels or more.
        BackendUnavailableError: If ``backend`` cannot run here.

    Example:
        >>> connected_components(torch.tensor([[[7, 7, 255, 7]]]))
        tensor([[[1, 1, 0, 2]]], dtype=torch.int32)
    """
    check_label_map("labels", labels, masks=True)
    if classes is None and labels.dtype != torch.bool:
        wanted, ignored = None, optional_ignore_index(ignore_index)
    else:
        labels, ids, ignored = checked_ids(labels, (1,) if classes is None else classes, ignore_index)
        wanted = list(ids)
    connectivity = checked_connectivity(connectivity)
    check_backend(BACKENDS, backend, "labels", labels.device)
    numbers: Tensor = torch.ops.stuffinstance.connected_components(labels, wanted, connectivity, ignored, backend)
    return numbers


def checked_ids(
    labels: Tensor, classes: Collection[int], ignore_index: int | None
) -> tuple[Tensor, tuple[int, ...], int | None]:
    """A label map, the ids to look for in it and the one to ignore. A bool mask becomes a map of classes 0 and 1.

    Raises:
        TypeError: If ``labels`` is not a tensor, or an id is not a whole number.
        ValueError: If ``labels`` is not a 3-D integer or bool tensor, ``classes`` are not distinct ids or hold
            ``ignore_index``, or ids other than 1 are asked for in a mask.
    """
    check_label_map("labels", labels, masks=True)
    wanted = checked_classes("classes", classes)
    if labels.dtype == torch.bool:
        if any(number != 1 for number in wanted):
            raise ValueError(
                "classes must be (1,) where labels are a bool mask, of which True is class 1 and False the "
                f"background, got {wanted}."
            )
        labels = labels.view(torch.uint8)
    return labels, wanted, optional_ignore_index(ignore_index, classes=wanted)


def check_batch(labels: Tensor) -> None:
    """Require that int32 can count the pixels. Operators do, which see all that ``torch.func.vmap`` maps over."""
    if labels.numel() >= _INT32_PIXELS:
        raise ValueError(f"labels must hold fewer than 2^31 pixels in all, got {tuple(labels.shape)}. Split the batch.")


def checked_connectivity(connectivity: int) -> Literal[4, 8]:
    """4 or 8."""
    number = checked_whole("connectivity", connectivity)
    if number != 4 and number != 8:
        raise ValueError(f"connectivity must be 4 (edges) or 8 (edges and corners), got {connectivity!r}.")
    return 4 if number == 4 else 8


def _components(
    labels: Tensor, classes: list[int] | None, connectivity: int, ignore_index: int | None, backend: str
) -> Tensor:
    check_batch(labels)
    if labels.numel() == 0:
        return torch.zeros_like(labels, dtype=torch.int32)
    return resolve(BACKENDS, backend, "labels", labels.device).run(labels, classes, ignore_index, connectivity)


def _fake_components(
    labels: Tensor, classes: list[int] | None, connectivity: int, ignore_index: int | None, backend: str
) -> Tensor:
    return torch.empty_like(labels, dtype=torch.int32, memory_format=torch.contiguous_format)


register_operator(
    "connected_components(Tensor labels, int[]? classes, int connectivity, int? ignore_index, str backend) -> Tensor",
    _components,
    _fake_components,
)
