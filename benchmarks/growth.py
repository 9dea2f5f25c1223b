"""How the cost grows with batch, regions, classes, bank and image size, one of them varied at a time.

Where nothing else is said: one image, feature maps of 64x128 with D = 256, 19 classes, banks of 50 rows (500 for
things), a drawn street. Labels have the features' size, and logits say what the labels say.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import stuffinstance as si
from benchmarks.label_maps import city_labels
from benchmarks.measurement import Floor, Measurement, Settings
from benchmarks.step import StepInputs, matching_step, warm_matching
from benchmarks.timing import time_in_turn
from stuffinstance.losses.distances import nearest_distance
from stuffinstance.regions.region_table import _stuff_and_instance_regions

STEP = "whole step"
_DIM, _HEIGHT, _WIDTH, _CAPACITY = 256, 64, 128, 50
_LARGEST_MAP = 256 * 512  # beyond it labels alone are timed: features of that size belong to no network


class Case(NamedTuple):
    """Labels (B, h, w) of a label space, how large the banks are, and whether all regions are pooled or those kept."""

    labels: Tensor
    space: si.LabelSpace = si.CITYSCAPES
    capacity: int = _CAPACITY
    pools_all: bool = False


def blocks(rows: int, columns: int, colors: Tensor, height: int = _HEIGHT, width: int = _WIDTH) -> Tensor:
    """A map (1, H, W) of ``rows * columns`` rectangles with the class ids ``colors`` (rows, columns).

    >>> blocks(1, 2, torch.tensor([[5, 7]]), 1, 4)
    tensor([[[5, 5, 7, 7]]])
    """
    down = torch.arange(height) * rows // height
    across = torch.arange(width) * columns // width
    return colors[down[:, None], across][None]


def with_batch(batch: int) -> Case:
    """That many drawn streets."""
    return Case(city_labels(batch, _HEIGHT, _WIDTH))


def with_regions(count: int) -> Case:
    """Exactly ``count`` regions (2, 8, 32, ...) of four thing classes; the region mean is that of them all."""
    rows = round((count / 2) ** 0.5)
    down, across = torch.arange(rows)[:, None], torch.arange(2 * rows)
    things = torch.tensor(si.CITYSCAPES.things[:4])
    return Case(blocks(rows, 2 * rows, things[down % 2 * 2 + across % 2]), pools_all=True)


def with_classes(count: int) -> Case:
    """512 rectangles of random classes, half of them stuff."""
    generator = torch.Generator().manual_seed(0)
    colors = torch.randint(count, (16, 32), generator=generator)
    names = tuple(f"class {k}" for k in range(count))
    half = count // 2
    # 255 is a class of its own in a larger space.
    space = si.LabelSpace(names=names, stuff=tuple(range(half)), things=tuple(range(half, count)), ignore_index=65535)
    return Case(blocks(16, 32, colors), space)


def with_capacity(rows: int) -> Case:
    """Banks of that many rows per stuff class and ten times as many per thing class."""
    return Case(city_labels(1, _HEIGHT, _WIDTH), capacity=rows)


def with_pixels(pixels: int) -> Case:
    """A street twice as wide as it is high."""
    height = round((pixels / 2) ** 0.5)
    return Case(city_labels(1, height, 2 * height))


AXES: Mapping[str, tuple[Callable[[int], Case], tuple[int, ...]]] = {
    "images in the batch": (with_batch, (1, 2, 4, 8, 16)),
    "regions in the map": (with_regions, (8, 32, 128, 512, 2048, 8192)),
    "classes": (with_classes, (4, 19, 65, 150, 500)),
    "bank rows of a stuff class": (with_capacity, (10, 50, 200, 800, 1600)),
    "pixels of the map": (with_pixels, (32 * 64, 64 * 128, 128 * 256, 256 * 512, 512 * 1024, 1024 * 2048)),
}


def run(settings: Settings) -> list[Measurement]:
    """Time the parts and the whole step at every point of every axis."""
    settings = replace(settings, repeats=min(settings.repeats, 9), seconds_per_way=min(settings.seconds_per_way, 0.8))
    return list(_measured(settings))


def _measured(settings: Settings) -> Iterator[Measurement]:
    feature_dim = 8 if settings.quick else _DIM
    for axis, (make, values) in AXES.items():
        for value in values[:2] if settings.quick else values:
            case = make(value)
            ways = _ways(case, feature_dim, settings.device)
            timings = time_in_turn(ways, settings)
            floor = None
            if "floor" in timings:
                what = "read both feature maps once, write the gradient once"
                floor = Floor(what, timings.pop("floor").median_ms, bytes=3 * feature_dim * case.labels.numel() * 4)
            for way, timing in timings.items():
                extra: dict[str, float | int | str] = {"axis": axis, "value": value}
                yield Measurement("growth", f"{axis} = {value}", way, timing, floor if way == STEP else None, extra)


def _ways(case: Case, feature_dim: int, device: torch.device) -> dict[str, Callable[[], object]]:
    labels = case.labels.to(device)
    things = case.space.things

    def thing_regions() -> si.Regions:
        return si.instance_regions(labels, things, ignore_index=None)

    ways: dict[str, Callable[[], object]] = {"instance regions": thing_regions}
    if labels[0].numel() > _LARGEST_MAP:
        return ways
    batch, height, width = labels.shape
    generator = torch.Generator(device).manual_seed(0)
    source, target = torch.randn(2, batch, feature_dim, height, width, device=device, generator=generator).relu_()
    inputs = StepInputs(
        source, labels, _logits_of(labels, case.space), target.requires_grad_(), _logits_of(labels, case.space)
    )
    sim = warm_matching(case.space, feature_dim, device, case.capacity)
    if case.pools_all:
        region_map = si.connected_components(labels)
        rows = int(region_map.max())
    else:
        region_map, stuff, found = _stuff_and_instance_regions(labels, case.space.stuff, things, 10, 8)
        rows = stuff[0].numel() + found[0].numel()
    bank, per_class = sim.instance_bank, 10 * batch
    descriptors = torch.rand(len(things), per_class, feature_dim, device=device, generator=generator)

    @torch.no_grad()
    def bound() -> tuple[Tensor, Tensor, Tensor]:
        return source.sum(), target.sum(), torch.full_like(target, 1.0)

    return ways | {
        "region mean": lambda: si.region_mean(source, region_map, rows),
        "matching of things": lambda: nearest_distance(
            descriptors, bank.features, bank.filled, sim.instance_loss.distance
        ),
        STEP: lambda: matching_step(sim, inputs),
        "floor": bound,
    }


def _logits_of(labels: Tensor, space: si.LabelSpace) -> Tensor:
    """Logits (B, K, h, w) that predict the labels; class 0 where they are ignored."""
    known = torch.where(labels < space.num_classes, labels, 0)
    return F.one_hot(known, space.num_classes).permute(0, 3, 1, 2).float().contiguous()
