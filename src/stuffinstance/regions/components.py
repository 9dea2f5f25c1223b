"""connected_components(): check the labels, make classes into values from 1 on, hand them to a backend."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tag, Tensor
from torch.library import define, impl, register_fake

from stuffinstance.arguments import check_label_map, checked_classes
from stuffinstance.backend_table import resolve
from stuffinstance.regions.backends import BACKENDS
from stuffinstance.regions.vmap_rule import register_vmap_rule

_INT32_PIXELS = 2**31


def connected_components(
    labels: Tensor,
    *,
    classes: Sequence[int] | None = None,
    connectivity: Literal[4, 8] = 8,
    ignore_index: int | None = 255,
    backend: str = "auto",
) -> Tensor:
    """Number the connected regions of equal class id in each image, all classes in one pass.

    Numbers follow the raster order of each region's first pixel, so every backend returns the same tensor, bit for
    bit. Exact for any shape of region: snakes, spirals, combs.

    Args:
        labels: Class ids, (B, H, W), any integer dtype; ids may be negative or large.
        classes: The ids to number; the rest becomes 0. Default: every id but ``ignore_index``.
        connectivity: 4 joins pixels that share an edge, 8 also those that share a corner (SIM uses 8).
        ignore_index: Pixels of this id become 0; None ignores no id.
        backend: ``"auto"`` (the first of the table that runs on the labels' device), ``"cc3d"`` (CPU, with the extra
            ``fast``), ``"skimage"`` (CPU), ``"torch"`` (any device; it waits for the device), ``"triton"`` (CUDA; it
            never waits; only by name) or ``"reference"`` (flood fill in Python).

    Returns:
        Region numbers, (B, H, W) int32 on the labels' device: 0 outside, then 1, 2, ... per image.

    Raises:
        ValueError: If ``labels`` is not a 3-D integer tensor, ``connectivity`` is not 4 or 8, ``classes`` are not
            distinct ids, or the batch holds 2\\ :sup:`31` pixels or more.
        BackendUnavailableError: If ``backend`` cannot run here.

    Example:
        >>> connected_components(torch.tensor([[[7, 7, 255, 7]]]))
        tensor([[[1, 1, 0, 2]]], dtype=torch.int32)
    """
    check_label_map("labels", labels)
    check_connectivity(connectivity)
    check_batch(labels)
    resolve(BACKENDS, backend, "labels", labels.device)
    wanted = None if classes is None else list(checked_classes("classes", classes))
    numbers: Tensor = torch.ops.stuffinstance.connected_components(labels, wanted, connectivity, ignore_index, backend)
    return numbers


def check_batch(labels: Tensor) -> None:
    """Require that int32 can count the pixels."""
    if labels.numel() >= _INT32_PIXELS:
        raise ValueError(f"labels must hold fewer than 2^31 pixels in all, got {tuple(labels.shape)}. Split the batch.")


def check_connectivity(connectivity: int) -> None:
    """Require 4 or 8."""
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 (edges) or 8 (edges and corners), got {connectivity!r}.")


define(
    "stuffinstance::connected_components",
    "(Tensor labels, int[]? classes, int connectivity, int? ignore_index, str backend) -> Tensor",
    tags=(Tag.pt2_compliant_tag,),
)


@impl("stuffinstance::connected_components", "default")
def _(labels: Tensor, classes: list[int] | None, connectivity: int, ignore_index: int | None, backend: str) -> Tensor:
    # One operator to the compiler, so that a backend may be numpy, a loop or a kernel without a graph break.
    if labels.numel() == 0:
        return torch.zeros_like(labels, dtype=torch.int32)
    return resolve(BACKENDS, backend, "labels", labels.device).run(labels, classes, ignore_index, connectivity)


@register_fake("stuffinstance::connected_components")  # type: ignore[untyped-decorator]
def _(labels: Tensor, classes: list[int] | None, connectivity: int, ignore_index: int | None, backend: str) -> Tensor:
    return torch.empty_like(labels, dtype=torch.int32, memory_format=torch.contiguous_format)


register_vmap_rule("stuffinstance::connected_components")
