"""Regions of a label map: one per stuff class, the largest connected ones per thing class."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stuffinstance._backends import Backend, check_backend, register_operator, resolve
from stuffinstance._checks import checked_whole
from stuffinstance.regions import cpu_table as by_runs
from stuffinstance.regions import device_table as by_pixels
from stuffinstance.regions.backends import BACKENDS
from stuffinstance.regions.connected_components import check_batch, checked_connectivity, checked_ids

_ROOM = 2**16
_INT32_ROWS = 2**31
_COMPILED = BACKENDS["numba"]  # makes tables too


class Regions(NamedTuple):
    """The regions of a batch in tensors whose shape depends on B, C and Z alone (Z regions at most per class).

    Attributes:
        region_map: (B, H, W) int32. 0 outside all regions, else ``1 + class position * Z + rank``: the row of
            :func:`region_mean` that the pixel belongs to, counted from 1.
        ids: (B, C, Z) int32. The region's number in its numbering (for instances that of
            :func:`connected_components`), 0 for an empty place.
        area: (B, C, Z) int64. Pixels, 0 for an empty place.
        valid: (B, C, Z) bool. Whether there is such a region.
    """

    region_map: Tensor
    ids: Tensor
    area: Tensor
    valid: Tensor

    @property
    def num_rows(self) -> int:
        """R = C * Z, the rows that :func:`region_mean` gives."""
        return count_rows(self)


def count_rows(regions: Regions) -> int:
    """``regions.num_rows`` in a form that torch 2.4 can compile: it cannot trace a named tuple's properties."""
    return regions.valid.shape[1] * regions.valid.shape[2]


def stuff_regions(labels: Tensor, classes: Sequence[int]) -> Regions:
    """Stuff regions (SIM, Eq. 5): one region per class and image, all pixels of the class.

    Args:
        labels: Class ids, (B, H, W), any integer dtype; or a bool mask, whose True is class 1.
        classes: The C ids; pixels of other ids belong to no region.

    Returns:
        :class:`Regions` with Z = 1.

    Raises:
        TypeError: If ``labels`` is not a tensor, or an id is not a whole number.
        ValueError: If ``labels`` is not a 3-D integer or bool tensor, ``classes`` are not distinct ids, or the batch
            holds 2\\ :sup:`31` pixels or more.

    Example:
        >>> stuff_regions(torch.tensor([[[0, 8, 8]]]), classes=(8, 3)).area
        tensor([[[2],
                 [0]]])
    """
    labels, classes, _ = checked_ids(labels, classes, None)
    return _stuff_regions(labels, classes)


def _stuff_regions(labels: Tensor, classes: Sequence[int]) -> Regions:
    region_map, area = torch.ops.stuffinstance.class_areas(labels, list(classes))
    area = area[:, :, None]
    valid = area > 0
    ids = torch.arange(1, len(classes) + 1, dtype=torch.int32, device=labels.device)[None, :, None]
    return Regions(region_map, torch.where(valid, ids, 0), area, valid)


def instance_regions(
    labels: Tensor,
    classes: Sequence[int],
    max_regions: int = 10,
    *,
    connectivity: Literal[4, 8] = 8,
    ignore_index: int | None = 255,
    backend: str = "auto",
) -> Regions:
    """Instance regions (SIM, Eq. 7 and Algorithm 1): the largest connected regions of each class, by falling area.

    Regions of equal area come in raster order of their first pixel (in the reference implementation their order is not
    fixed). Paper and code have no minimum area.

    Args:
        labels: Class ids, (B, H, W), any integer dtype; or a bool mask, whose True is class 1.
        classes: The C ids of the things.
        max_regions: Z, how many regions of a class are kept per image: at most 65536, or H * W where that is more.
        connectivity: 4 or 8 (SIM's code: 8; the paper does not say).
        ignore_index: Pixels of this id belong to no region; None ignores no id. It may not be one of ``classes``.
        backend: As for :func:`connected_components`.

    Returns:
        :class:`Regions`; nothing is read back from a GPU beyond what the backend itself needs.

    Raises:
        TypeError: If ``labels`` is not a tensor, or an id or a number is not a whole number.
        ValueError: If ``labels`` is not a 3-D integer or bool tensor, ``classes`` are not distinct ids or hold
            ``ignore_index``, ``max_regions`` is below 1 or far above what an image can hold, ``connectivity`` is not
            4 or 8, or the batch holds 2\\ :sup:`31` pixels or more, or its table as many rows.
        BackendUnavailableError: If ``backend`` cannot run here.

    Example:
        >>> regions = instance_regions(torch.tensor([[[5, 0, 5, 5]]]), classes=(5,), max_regions=3)
        >>> regions.area, regions.ids
        (tensor([[[2, 1, 0]]]), tensor([[[2, 1, 0]]], dtype=torch.int32))
        >>> regions.region_map
        tensor([[[2, 0, 1, 1]]], dtype=torch.int32)
    """
    labels, classes, ignored = checked_ids(labels, classes, ignore_index)
    max_regions = checked_whole("max_regions", max_regions, 1, most_regions(labels))
    connectivity = checked_connectivity(connectivity)
    check_backend(BACKENDS, backend, "labels", labels.device)
    return _instance_regions(labels, classes, max_regions, connectivity, ignored, backend)


def _instance_regions(
    labels: Tensor,
    classes: Sequence[int],
    max_regions: int,
    connectivity: int,
    ignored: int | None = None,
    backend: str = "auto",
) -> Regions:
    region_map, ids, area = torch.ops.stuffinstance.instance_regions(
        labels, list(classes), max_regions, connectivity, ignored, backend
    )
    return Regions(region_map, ids, area, area > 0)


def _stuff_and_instance_regions(
    labels: Tensor, stuff: Sequence[int], things: Sequence[int], max_regions: int, connectivity: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One map of both kinds of regions, which share no class, so that features are read once; and where there are any.

    Returns:
        The map (B, H, W) int32, in which the rows of things follow those of stuff, and whether there is such a region:
        (B, C, 1) and (B, C', Z) bool.
    """
    region_map, stuff_area, area = torch.ops.stuffinstance.stuff_and_instance_regions(
        labels, list(stuff), list(things), max_regions, connectivity
    )
    return region_map, stuff_area > 0, area > 0


def most_regions(region_map: Tensor) -> int:
    """How many regions of an image (B, H, W) a table may have room for: its pixels, or 65536 where it has fewer.

    No image has more regions than pixels. A larger number is a mistake (ids that were never numbered from 1 on), for
    which terabytes would be asked for.
    """
    return max(region_map.shape[1] * region_map.shape[2], _ROOM)


def _check_rows(classes: int, max_regions: int) -> None:
    """Require that int32 can number the rows of an image."""
    if classes * max_regions >= _INT32_ROWS:
        raise ValueError(
            f"max_regions must leave fewer than 2^31 rows, got {max_regions} for each of {classes} classes. Regions "
            "of so many classes are more than an image has pixels: pass a smaller max_regions."
        )


def _empty(labels: Tensor, *table: int) -> tuple[Tensor, Tensor]:
    """A map without a region, (B, H, W) int32, and a table (B, ...) int64 of areas of 0."""
    region_map = labels.new_zeros(labels.shape, dtype=torch.int32)
    return region_map, labels.new_zeros((labels.shape[0], *table), dtype=torch.int64)


def _areas(labels: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
    check_batch(labels)
    if labels.numel() == 0:
        return _no_areas(labels, classes)
    if labels.device.type != "cpu":
        return by_pixels.class_areas(labels, classes)
    if resolve(BACKENDS, "auto", "labels", labels.device) is _COMPILED:
        region_map, area, _, _ = _COMPILED.loaded.region_tables(labels, classes, (), None, 1, 8)
        return region_map, area
    return by_runs.class_areas(labels, classes)


def _no_areas(labels: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
    return _empty(labels, len(classes))


register_operator("class_areas(Tensor labels, int[] classes) -> (Tensor, Tensor)", _areas, _no_areas)


def _instances(
    labels: Tensor, classes: list[int], max_regions: int, connectivity: int, ignore_index: int | None, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    check_batch(labels)
    _check_rows(len(classes), max_regions)
    if labels.numel() == 0:
        return _no_instances(labels, classes, max_regions)
    taken = resolve(BACKENDS, backend, "labels", labels.device)
    if labels.device.type == "cpu":
        region_map, _, ids, area = _cpu_tables(taken, labels, (), classes, ignore_index, max_regions, connectivity)
        return region_map, ids, area
    components = taken.run(labels, classes, ignore_index, connectivity)
    return by_pixels.largest_regions(labels, components, classes, max_regions)


def _cpu_tables(
    taken: Backend,
    labels: Tensor,
    stuff: Sequence[int],
    things: Sequence[int],
    ignore_index: int | None,
    max_regions: int,
    connectivity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`stuffinstance.regions.cpu_table.region_tables`, by the backend itself where it makes tables."""
    if taken is _COMPILED:
        found: tuple[Tensor, Tensor, Tensor, Tensor] = taken.loaded.region_tables(
            labels, stuff, things, ignore_index, max_regions, connectivity
        )
        return found
    number = partial(taken.run, classes=None, ignore_index=0, connectivity=connectivity)
    return by_runs.region_tables(labels, stuff, things, ignore_index, max_regions, number)


def _no_instances(
    labels: Tensor, classes: list[int], max_regions: int, *settings: int | str | None
) -> tuple[Tensor, Tensor, Tensor]:
    region_map, area = _empty(labels, len(classes), max_regions)
    return region_map, torch.zeros_like(area, dtype=torch.int32), area


register_operator(
    "instance_regions(Tensor labels, int[] classes, int max_regions, int connectivity, int? ignore_index, str backend)"
    " -> (Tensor, Tensor, Tensor)",
    _instances,
    _no_instances,
)


def _stuff_and_instances(
    labels: Tensor, stuff: list[int], things: list[int], max_regions: int, connectivity: int
) -> tuple[Tensor, Tensor, Tensor]:
    check_batch(labels)
    _check_rows(len(stuff) + len(things), max_regions)
    if labels.numel() == 0:
        return _no_stuff_and_instances(labels, stuff, things, max_regions, connectivity)
    taken = resolve(BACKENDS, "auto", "labels", labels.device)
    if labels.device.type == "cpu":
        region_map, area, _, areas = _cpu_tables(taken, labels, stuff, things, None, max_regions, connectivity)
        return region_map, area[:, :, None], areas
    components = taken.run(labels, things, None, connectivity)
    return by_pixels.stuff_and_largest_regions(labels, components, stuff, things, max_regions)


def _no_stuff_and_instances(
    labels: Tensor, stuff: list[int], things: list[int], max_regions: int, connectivity: int
) -> tuple[Tensor, Tensor, Tensor]:
    return *_empty(labels, len(stuff), 1), _empty(labels, len(things), max_regions)[1]


register_operator(
    "stuff_and_instance_regions(Tensor labels, int[] stuff, int[] things, int max_regions, int connectivity)"
    " -> (Tensor, Tensor, Tensor)",
    _stuff_and_instances,
    _no_stuff_and_instances,
)
