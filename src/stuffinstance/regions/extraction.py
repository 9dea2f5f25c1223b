"""Regions to pool features over: one per stuff class, and the largest connected ones of each thing class."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stuffinstance.arguments import check_label_map, check_positive, checked_classes
from stuffinstance.regions.class_table import class_positions
from stuffinstance.regions.components import check_connectivity, connected_components


class Regions(NamedTuple):
    """The regions of a batch in tensors whose shape depends on B, C and Z alone (Z regions at most per class).

    Attributes:
        map: (B, H, W) int32. 0 outside all regions, else ``1 + class position * Z + rank``: the row of
            :func:`region_mean` that the pixel belongs to, counted from 1.
        ids: (B, C, Z) int32. The region's number in its numbering (for instances that of
            :func:`connected_components`), 0 where there is none.
        area: (B, C, Z) int64. Pixels, 0 where there is none.
        valid: (B, C, Z) bool. Whether there is such a region.
    """

    map: Tensor
    ids: Tensor
    area: Tensor
    valid: Tensor

    @property
    def num_rows(self) -> int:
        """R = C * Z, the rows that :func:`region_mean` gives."""
        return self.valid.shape[1] * self.valid.shape[2]


def stuff_regions(labels: Tensor, classes: Sequence[int]) -> Regions:
    """One region per class and image: all pixels of the class.

    Args:
        labels: Class ids, (B, H, W), any integer dtype.
        classes: The C ids; pixels of other ids belong to no region.

    Returns:
        :class:`Regions` with Z = 1.

    Raises:
        ValueError: If ``labels`` is not a 3-D integer tensor or ``classes`` are not distinct ids.

    Example:
        >>> stuff_regions(torch.tensor([[[0, 8, 8]]]), classes=(8, 3)).area
        tensor([[[2],
                 [0]]])
    """
    check_label_map("labels", labels)
    classes = checked_classes("classes", classes)
    # (B, H, W): 0 outside, else 1 + position of the class
    number = class_positions(labels, classes) + 1
    batch, slots = labels.shape[0], len(classes)
    area = torch.zeros(batch, slots + 1, dtype=torch.int64, device=labels.device)
    flat = number.flatten(1)
    area = area.scatter_add(1, flat, torch.ones_like(flat))[:, 1:, None]
    valid = area > 0
    ids = torch.arange(1, slots + 1, dtype=torch.int32, device=labels.device)[None, :, None]
    return Regions(number.to(torch.int32), torch.where(valid, ids, 0), area, valid)


def instance_regions(
    labels: Tensor,
    classes: Sequence[int],
    max_regions: int = 10,
    *,
    connectivity: Literal[4, 8] = 8,
    ignore_index: int | None = 255,
    backend: str = "auto",
) -> Regions:
    """The largest connected regions of each class (SIM, Eq. 7 and Algorithm 1), by falling area.

    Regions of equal area come in raster order of their first pixel (the released code leaves ties in no fixed order).
    No area is too small: paper and code know no minimum.

    Args:
        labels: Class ids, (B, H, W), any integer dtype.
        classes: The C ids of the things.
        max_regions: Z, how many regions of a class are kept per image.
        connectivity: 4 or 8 (SIM's code: 8; the paper does not say).
        ignore_index: Pixels of this id belong to no region; None ignores no id.
        backend: As for :func:`connected_components`.

    Returns:
        :class:`Regions`; nothing is read back from a GPU beyond what the backend itself needs.

    Raises:
        ValueError: If ``labels`` is not a 3-D integer tensor, ``classes`` are not distinct ids, ``max_regions`` is
            below 1, or ``connectivity`` is not 4 or 8.
        BackendUnavailableError: If ``backend`` cannot run here.

    Example:
        >>> regions = instance_regions(torch.tensor([[[5, 0, 5, 5]]]), classes=(5,), max_regions=3)
        >>> regions.area, regions.ids
        (tensor([[[2, 1, 0]]]), tensor([[[2, 1, 0]]], dtype=torch.int32))
        >>> regions.map
        tensor([[[2, 0, 1, 1]]], dtype=torch.int32)
    """
    check_label_map("labels", labels)
    classes = checked_classes("classes", classes)
    check_positive("max_regions", max_regions)
    check_connectivity(connectivity)
    components = connected_components(
        labels, classes=classes, connectivity=connectivity, ignore_index=ignore_index, backend=backend
    )
    region_map, ids, area = torch.ops.stuffinstance.largest_regions(labels, components, list(classes), max_regions)
    return Regions(region_map, ids, area, area > 0)


def join_regions(first: Regions, second: Regions) -> Tensor:
    """One map (B, H, W) int32 of two sets of regions that share no pixel: the second's rows follow the first's.

    With it :func:`region_mean` pools stuff and things in one pass over the features.
    """
    return torch.where(second.map > 0, second.map + first.num_rows, first.map)


@torch.library.custom_op(
    "stuffinstance::largest_regions",
    mutates_args=(),
    schema="(Tensor labels, Tensor components, int[] classes, int max_regions) -> (Tensor, Tensor, Tensor)",
)
def _largest(labels: Tensor, components: Tensor, classes: list[int], max_regions: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, slots = labels.shape[0], len(classes)
    device = labels.device
    number = components.flatten(1).to(torch.int64)  # (B, P)
    pixels = number.shape[1]
    # A region has at least one pixel, so P bounds their count. On a CPU the true count is free to read.
    most = int(number.max()) if device.type == "cpu" and number.numel() else pixels
    most = max(1, most)  # a region without a pixel belongs to no class, so one too many does no harm
    area, slot = _area_and_class(labels, number, classes, most)
    # One sort per image: by class, then by falling area; stable, so ties stay in raster order.
    order = (slot * (pixels + 1) + (pixels - area)).argsort(dim=1, stable=True)  # (B, most)
    first = torch.searchsorted(
        slot.gather(1, order), torch.arange(slots + 1, device=device).expand(batch, -1).contiguous()
    )
    rank = first[:, :-1, None] + torch.arange(max_regions, device=device)  # (B, C, Z): places in `order`
    valid = rank < first[:, 1:, None]
    chosen = order.gather(1, rank.clamp(max=most - 1).flatten(1)).view_as(rank)
    ids = torch.where(valid, chosen + 1, 0)
    padded = torch.cat([area.new_zeros(batch, 1), area], dim=1)
    rows = torch.arange(1, slots * max_regions + 1, device=device).expand(batch, -1)
    row_of = number.new_zeros(batch, most + 1).scatter_(1, ids.flatten(1), rows)
    row_of[:, 0] = 0  # every empty place wrote its row there
    region_map = row_of.gather(1, number).view(labels.shape).to(torch.int32)
    return region_map, ids.to(torch.int32), padded.gather(1, ids.flatten(1)).view_as(ids)


@_largest.register_fake
def _(labels: Tensor, components: Tensor, classes: list[int], max_regions: int) -> tuple[Tensor, Tensor, Tensor]:
    table = (labels.shape[0], len(classes), max_regions)
    return (
        labels.new_empty(labels.shape, dtype=torch.int32),
        labels.new_empty(table, dtype=torch.int32),
        labels.new_empty(table, dtype=torch.int64),
    )


def _area_and_class(labels: Tensor, number: Tensor, classes: list[int], most: int) -> tuple[Tensor, Tensor]:
    """Area and position of the class of regions 1 .. most, (B, most) each; absent regions get the position C."""
    batch = number.shape[0]
    area = number.new_zeros(batch, most + 1).scatter_add_(1, number, torch.ones_like(number))
    position = class_positions(labels, classes).flatten(1)
    slot = torch.full_like(area, len(classes)).scatter_(1, number, position)  # all pixels of a region agree
    return area[:, 1:], slot[:, 1:]
