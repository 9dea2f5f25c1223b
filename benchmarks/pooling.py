"""Mean features of regions and their matching, beside masked passes and everything torch itself offers for it.

Regions are those of a city scene (stuff and the largest things together: 118 rows, of which a scene uses some dozens)
at the sizes of SIM's feature maps, for D = 2048, 512 and 64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import stuffinstance as si
from benchmarks.label_maps import city_labels
from benchmarks.measurement import Floor, Measurement, Settings, WrongResult
from benchmarks.reference_implementation import masked_mean
from benchmarks.timing import peak_memory, time_in_turn
from stuffinstance.losses.distances import nearest_distance, resolve_distance
from stuffinstance.regions.region_table import _stuff_and_instance_regions

OURS = "stuffinstance"

Pool = Callable[[Tensor, Tensor, int], Tensor]
"""Features (1, D, h, w), region map (1, h, w) with 0 for none, R: to means (1, R, D)."""


def masked_passes(features: Tensor, region_map: Tensor, num_regions: int) -> Tensor:
    """The reference implementation's way: the whole map is read once for every region."""
    rows = []
    for number in range(1, num_regions + 1):
        mask = region_map[0] == number
        there = bool(mask.any())
        rows.append(masked_mean(features, mask) if there else features.new_zeros(features.shape[1]))
    return torch.stack(rows)[None]


def scatter_add(features: Tensor, region_map: Tensor, num_regions: int) -> Tensor:
    """Every value is added to its region's sum."""
    number = region_map.flatten().to(torch.int64).expand(features.shape[1], -1)
    sums = features.new_zeros(features.shape[1], num_regions + 1).scatter_add(1, number, features[0].flatten(1))
    return _means(sums.t(), region_map, num_regions)


def index_add(features: Tensor, region_map: Tensor, num_regions: int) -> Tensor:
    """Every pixel's column is added to its region's."""
    number = region_map.flatten().to(torch.int64)
    sums = features.new_zeros(features.shape[1], num_regions + 1).index_add(1, number, features[0].flatten(1))
    return _means(sums.t(), region_map, num_regions)


def one_hot_bmm(features: Tensor, region_map: Tensor, num_regions: int) -> Tensor:
    """A matrix product of the features with which pixel is in which region."""
    member = F.one_hot(region_map.flatten(1).to(torch.int64), num_regions + 1).to(features.dtype)
    sums = torch.bmm(features.flatten(2), member)
    return _means(sums[0].t(), region_map, num_regions)


def segment_reduce(features: Tensor, region_map: Tensor, num_regions: int) -> Tensor:
    """Pixels sorted by region, then reduced run by run."""
    number = region_map.flatten().to(torch.int64)
    ordered = features[0].flatten(1).t()[number.argsort(stable=True)]
    lengths = number.bincount(minlength=num_regions + 1)
    means: Tensor = torch.segment_reduce(ordered, "mean", lengths=lengths, axis=0, initial=0, unsafe=True)
    empty = lengths[:, None] == 0  # their mean is 0 / 0
    return means.masked_fill(empty, 0)[None, 1:]


def embedding_bag(features: Tensor, region_map: Tensor, num_regions: int) -> Tensor:
    """Pixels as an embedding table, regions as bags of them."""
    number = region_map.flatten().to(torch.int64)
    table = features[0].flatten(1).t().contiguous()
    starts = F.pad(number.bincount(minlength=num_regions + 1).cumsum(0)[:-1], (1, 0))
    return F.embedding_bag(number.argsort(stable=True), table, starts, mode="mean")[None, 1:]


TORCH_WAYS: Mapping[str, Pool] = {
    "torch scatter_add": scatter_add,
    "torch index_add": index_add,
    "torch one-hot bmm": one_hot_bmm,
    "torch segment_reduce": segment_reduce,
    "torch embedding_bag": embedding_bag,
}
MASKED_PASSES = "masked passes (reference implementation)"


def pooling_ways(device: torch.device, interpreted: bool = False) -> dict[str, Pool]:
    """The library's, the reference implementation's and torch's, by name."""
    ours: dict[str, Pool] = {OURS: si.region_mean}
    if device.type == "cuda" or interpreted:
        ours |= {f"{OURS} {backend}": partial(si.region_mean, backend=backend) for backend in ("torch", "triton")}
    return {**ours, MASKED_PASSES: masked_passes, **TORCH_WAYS}


@dataclass(frozen=True)
class PoolingCase:
    """Features (1, D, h, w) that want a gradient, a region map (1, h, w), R, and slopes (1, R, D) of the means."""

    features: Tensor
    region_map: Tensor
    num_regions: int
    slopes: Tensor

    def forward(self, pool: Pool) -> Tensor:
        """The means alone, without a graph."""
        with torch.no_grad():
            return pool(self.features, self.region_map, self.num_regions)

    def backward(self, pool: Pool) -> Tensor:
        """The means, then the gradient of the features."""
        means = pool(self.features, self.region_map, self.num_regions)
        (gradient,) = torch.autograd.grad(means, self.features, self.slopes)
        return gradient


def city_case(height: int, width: int, feature_dim: int, device: torch.device) -> PoolingCase:
    """Stuff and thing regions of a drawn street, and non-negative random features as after ReLU."""
    labels = city_labels(1, height, width).to(device)
    region_map, stuff, things = _stuff_and_instance_regions(labels, si.CITYSCAPES.stuff, si.CITYSCAPES.things, 10, 8)
    count = stuff[0].numel() + things[0].numel()
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(1, feature_dim, height, width, device=device, generator=generator).relu_()
    slopes = torch.randn(1, count, feature_dim, device=device, generator=generator)
    return PoolingCase(features.requires_grad_(), region_map, count, slopes)


def check_pooling(case: PoolingCase, ways: Mapping[str, Pool]) -> dict[str, dict[str, float | int | str]]:
    """The largest error of each way's means and gradient against sums in float64, as a share of the largest value.

    Raises:
        WrongResult: If the library's is above 1e-5, or another way's above 1e-3 (long float32 sums lose digits).
    """
    number = case.region_map.flatten().to(torch.int64)
    member = F.one_hot(number, case.num_regions + 1)[:, 1:].double()  # (P, R)
    area = member.sum(0).clamp(min=1)
    flat = case.features.detach()[0].flatten(1)
    # In blocks of channels: a whole map in float64 would be twice the features.
    means = torch.cat([block.double() @ member for block in torch.split(flat, 64)]) / area
    slopes = F.pad(case.slopes[0].double().t() / area, (1, 0))  # (D, 1 + R)
    expected_gradient = slopes.float()[:, number].view_as(case.features)
    errors: dict[str, dict[str, float | int | str]] = {}
    for name, pool in ways.items():
        bound = 1e-5 if name.startswith(OURS) else 1e-3
        found = _largest_difference(case.forward(pool)[0], means.t())
        slope = _largest_difference(case.backward(pool), expected_gradient)
        if not (found <= bound and slope <= bound):
            raise WrongResult(f"{name}: means are off by {found:.3g}, gradients by {slope:.3g}, allowed is {bound:g}.")
        errors[name] = {"largest_error": max(found, slope)}
    return errors


def run(settings: Settings) -> list[Measurement]:
    """Pool and match at every size; each way's result is checked first."""
    # Many slow ways: fewer repeats of each, so that all of them together take two minutes on a CPU.
    settings = replace(settings, repeats=min(settings.repeats, 9), seconds_per_way=min(settings.seconds_per_way, 1.0))
    sizes = [(12, 20)] if settings.quick else [(90, 160), (64, 128)]
    dims = [16] if settings.quick else [2048, 512, 64]
    measurements = []
    for feature_dim in dims:
        for height, width in sizes:
            measurements += _pooling_of(height, width, feature_dim, settings)
        measurements += _matching_of(feature_dim, 40 if settings.quick else 500, settings)
    return measurements


def _pooling_of(height: int, width: int, feature_dim: int, settings: Settings) -> list[Measurement]:
    case, ways = (
        city_case(height, width, feature_dim, settings.device),
        pooling_ways(settings.device, settings.interpreted),
    )
    extra = check_pooling(case, ways)
    used = int(case.region_map.flatten().bincount()[1:].count_nonzero())
    for name, pool in ways.items():
        extra[name] |= {"regions": used, "peak_mib": peak_memory(partial(case.backward, pool), settings.device)}
    features = case.features.detach()
    bounds = {
        "means": Floor("read the features once", math.nan, features.nbytes),
        "means and gradient": Floor("read the features once, write the gradient once", math.nan, 2 * features.nbytes),
    }
    calls: dict[str, Callable[[], object]] = {
        "means": features.sum,
        "means and gradient": lambda: (features.sum(), torch.full_like(features, 1.0)),
    }
    measurements = []
    for what, run_one in (("means", case.forward), ("means and gradient", case.backward)):
        timings = time_in_turn({**{n: partial(run_one, p) for n, p in ways.items()}, "floor": calls[what]}, settings)
        floor = replace(bounds[what], ms=timings.pop("floor").median_ms)
        name = f"{what}, {height}x{width}, D={feature_dim}"
        measurements += [Measurement("pooling", name, way, t, floor, extra[way]) for way, t in timings.items()]
    return measurements


def _matching_of(feature_dim: int, slots: int, settings: Settings) -> list[Measurement]:
    """Ten regions of each of the 11 thing classes against full banks."""
    classes, rows = len(si.CITYSCAPES.things), 10
    generator = torch.Generator(settings.device).manual_seed(0)
    descriptors = torch.rand(classes, rows, feature_dim, device=settings.device, generator=generator)
    bank = torch.rand(classes, slots, feature_dim, device=settings.device, generator=generator)
    filled = torch.ones(classes, slots, dtype=torch.bool, device=settings.device)
    distance = resolve_distance("l1_mean")

    def ours() -> Tensor:
        return nearest_distance(descriptors, bank, filled, distance)[0]

    def broadcast() -> Tensor:
        return torch.stack(
            [(own[:, None] - memory).abs().mean(2).amin(1) for own, memory in zip(descriptors, bank, strict=True)]
        )

    error = _largest_difference(ours(), broadcast())
    if not error <= 1e-5:
        raise WrongResult(f"matching, D={feature_dim}: distances are off by {error:.3g}, allowed is 1e-05.")
    ways: dict[str, Callable[[], object]] = {OURS: ours, "broadcast (N, S, D), class by class": broadcast}
    extra: dict[str, dict[str, float | int | str]] = {
        name: {"peak_mib": peak_memory(call, settings.device)} for name, call in ways.items()
    }
    additions = 2 * classes * rows * slots * feature_dim
    added = find_spec("numba") is not None and settings.device.type == "cpu"
    bound = partial(add_alone, additions, settings.threads) if added else bank.sum
    timings = time_in_turn({**ways, "floor": bound}, settings)
    what = "as many additions, of numbers in the first cache" if added else "read the bank once"
    floor = Floor(what, timings.pop("floor").median_ms, bank.nbytes, additions)
    name = f"matching, {classes}x{rows} regions, S={slots}, D={feature_dim}"
    return [Measurement("pooling", name, way, timing, floor, extra[way]) for way, timing in timings.items()]


def add_alone(additions: int, threads: int) -> None:
    """Take so many additions of float32 numbers from the first cache: the rate that a sum over channels can reach."""
    from stuffinstance._compiled import over_threads

    values = np.ones((4, 1024), dtype=np.float32)
    over_threads(_addition_loop(), threads, threads, values, additions // (values.size * threads), np.zeros(threads))


@cache
def _addition_loop() -> Callable[..., None]:
    from stuffinstance._compiled import compiled

    @compiled(reorder=True)
    def add(first, last, values, rounds, sums):  # type: ignore[no-untyped-def]
        one, two, three, four = values[0], values[1], values[2], values[3]
        for part in range(first, last):
            a = b = c = d = values.dtype.type(0)
            for _ in range(rounds):
                for place in range(one.size):
                    a += one[place]
                    b += two[place]
                    c += three[place]
                    d += four[place]
            sums[part] = a + b + c + d

    return add


def _means(sums: Tensor, region_map: Tensor, num_regions: int) -> Tensor:
    """Sums (1 + R, D), row 0 of no region, to means (1, R, D)."""
    area = region_map.flatten().to(torch.int64).bincount(minlength=num_regions + 1)
    return (sums / area.clamp(min=1)[:, None])[None, 1:]


def _largest_difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach() - expected).abs().max() / expected.abs().max())
