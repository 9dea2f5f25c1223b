"""Region tables on any device, in shapes that depend on the arguments' shapes alone: nothing is read back."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance.regions.class_lookup import class_positions


def class_areas(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Map (B, H, W) int32, 1 + position of the class and 0 for other ids; area (B, C) int64."""
    return _class_areas(class_positions(labels, classes), len(classes))


def _class_areas(position: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    number = position + 1
    area = _areas(number.flatten(1), slots + 1)
    return number.to(torch.int32), area[:, 1:].contiguous()


def stuff_and_largest_regions(
    labels: Tensor, components: Tensor, stuff: Sequence[int], things: Sequence[int], max_regions: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Map (B, H, W) int32 of stuff classes and behind them things, areas (B, C, 1) and (B, C', Z) int64 of the two."""
    first = len(stuff)
    position = class_positions(labels, (*stuff, *things))
    stuff_map, stuff_area = _class_areas(torch.where(position < first, position, -1), first)
    thing_map, _, area = _largest(components, (position - first).clamp_(min=-1), len(things), max_regions)
    return torch.where(thing_map > 0, thing_map + first, stuff_map), stuff_area[:, :, None], area


def largest_regions(
    labels: Tensor, components: Tensor, classes: Sequence[int], max_regions: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Map (B, H, W) int32, ids (B, C, Z) int32 and areas (B, C, Z) int64 of the Z largest regions of each class."""
    return _largest(components, class_positions(labels, classes), len(classes), max_regions)


def _largest(components: Tensor, position: Tensor, slots: int, max_regions: int) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`largest_regions`, of the positions (B, H, W) of the labels among the classes.

    A region has at least one pixel, so the P pixels of an image bound how many it has. How many there really are only
    the device knows: that is why the tables below have P + 1 places, and why a whole image's worth of keys is sorted.
    """
    batch, device = position.shape[0], position.device
    number = components.flatten(1).to(torch.int64)  # (B, P)
    pixels = number.shape[1]
    area = _areas(number, pixels + 1)  # (B, P + 1)
    area[:, 0] = 0
    # All pixels of a region agree on the class: plain writes in any order. What no region has as its number is class C.
    slot = torch.full_like(area, slots).scatter_(1, number, position.flatten(1))
    slot[:, 0] = slots
    # One sort per image: by class, then by falling area; stable, so ties stay in raster order.
    key, order = (slot * (pixels + 1) + (pixels - area)).sort(dim=1, stable=True)
    bounds = torch.arange(slots + 1, device=device) * (pixels + 1)
    first = torch.searchsorted(key, bounds.expand(batch, -1).contiguous())
    rank = first[:, :-1, None] + torch.arange(max_regions, device=device)  # (B, C, Z): places in `order`
    valid = (rank < first[:, 1:, None]).flatten(1)
    ids = order.gather(1, rank.flatten(1).clamp(max=pixels)).where(valid, 0)
    rows = torch.arange(1, slots * max_regions + 1, device=device).expand(batch, -1)
    row_of = torch.zeros_like(area).scatter_(1, ids, rows)
    row_of[:, 0] = 0  # every empty place wrote its row there
    region_map = row_of.gather(1, number).to(torch.int32).view(position.shape)
    table = (batch, slots, max_regions)
    return region_map, ids.to(torch.int32).view(table), area.gather(1, ids).view(table)


def _areas(number: Tensor, cells: int) -> Tensor:
    """Pixels of each number 0 .. cells - 1, (B, cells) int64.

    Adding 1 for every pixel would make a large region's pixels queue for one address. Only a run's ends count here: a
    run of pixels i .. j adds j + 1 at its last pixel and -i at its first. All others add 0, each at a place of its own.
    """
    pixels = number.shape[1]
    ends = F.pad(number[:, 1:] != number[:, :-1], (1, 1), value=True)  # (B, P + 1): before each pixel, after the last
    place = torch.arange(pixels + 1, device=number.device)
    bound = torch.where(ends, place, 0)
    length = bound[:, 1:] - bound[:, :-1]  # (B, P)
    target = torch.where(length != 0, number, place[:-1])
    table = number.new_zeros(number.shape[0], max(cells, pixels)).scatter_add_(1, target, length)
    return table[:, :cells]
