"""Class-balanced thresholds: what counting costs beyond max and argmax, and how much memory a data set's stream needs.

Four street-like probability maps are made once and streamed in turn, so the exact thresholds are known from them.
"""

from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor

import stuffinstance as si
from benchmarks.measurement import Floor, Measurement, Settings, WrongResult
from benchmarks.timing import held_memory, peak_memory, time_in_turn

CLASSES, MAPS = 19, 4
FLOOR = "max and argmax alone"
_BYTES_SORTED = 16  # a pixel's confidence and label as the reference implementation keeps them, both float64
_QUARTERS = 4


def run(settings: Settings) -> list[Measurement]:
    """Time one map, then stream many.

    Raises:
        WrongResult: If thresholds leave their documented bound.
    """
    height, width = (32, 64) if settings.quick else (512, 1024)
    maps = probability_maps(height, width, settings.device)
    images = MAPS * _QUARTERS if settings.quick else settings.images
    return [*compare(maps, settings), stream(maps, images, settings.device)]


def probability_maps(height: int, width: int, device: torch.device) -> list[Tensor]:
    """Softmax of smooth noise with a preference by height: regions, and classes of unequal share and confidence."""
    generator = torch.Generator().manual_seed(0)
    lean = torch.linspace(-2, 2, CLASSES)[:, None, None] * torch.linspace(-1, 1, height)[:, None]
    maps = []
    for _ in range(MAPS):
        coarse = torch.randn(1, CLASSES, height // 32, width // 32, generator=generator) * 3
        logits = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") + lean
        maps.append(logits.softmax(1).to(device))
    return maps


def compare(maps: list[Tensor], settings: Settings) -> list[Measurement]:
    """One map by each way; every call takes the next map, so none finds its own in the cache."""
    threshold = si.ClassBalancedThreshold(CLASSES).to(settings.device)
    _, _, height, width = maps[0].shape
    for one in maps:
        threshold.update(one)
    check_bound(threshold, sorted_thresholds(maps))

    def over_maps(call: Callable[[Tensor], object]) -> Callable[[], object]:
        turn = cycle(maps)
        return lambda: call(next(turn))

    ways = {
        "stuffinstance": over_maps(threshold.update),
        "sorting": over_maps(lambda one: sorted_thresholds([one])),
        FLOOR: over_maps(lambda one: one.max(1)),
    }
    timings = time_in_turn(ways, settings)
    read = maps[0].numel() * maps[0].element_size()
    floor = Floor(FLOOR, timings[FLOOR].median_ms, bytes=read)
    return [
        Measurement(
            "thresholds",
            f"{CLASSES}x{height}x{width}",
            way,
            timing,
            floor,
            {
                "megapixels_per_second": round(height * width / timing.median_ms / 1e3, 1),
                "peak_mib": round(peak_memory(ways[way], settings.device), 1),
            },
        )
        for way, timing in timings.items()
    ]


def stream(maps: list[Tensor], images: int, device: torch.device) -> Measurement:
    """A data set's worth of maps, one after another: the memory at each quarter, and the error at the end.

    Raises:
        WrongResult: If the streamed thresholds leave their documented bound.
    """
    threshold = si.ClassBalancedThreshold(CLASSES).to(device)
    _, _, height, width = maps[0].shape
    repeats = max(1, images // (MAPS * _QUARTERS))  # of all maps, in each quarter

    def quarter() -> None:
        for _ in range(repeats):
            for one in maps:
                threshold.update(one)

    for one in maps:  # the allocator has seen every size
        threshold.update(one)
    threshold.reset()
    before = held_memory(device)
    held, peaks = [], []
    for _ in range(_QUARTERS):
        peaks.append(peak_memory(quarter, device))
        held.append(held_memory(device) - before)
    streamed = repeats * MAPS * _QUARTERS
    error = check_bound(threshold, sorted_thresholds(maps, repeats * _QUARTERS))
    return Measurement(
        "thresholds",
        f"stream of {streamed} maps {CLASSES}x{height}x{width}",
        "stuffinstance",
        None,
        None,
        {
            "peak_mib_in_each_quarter": ", ".join(f"{one:.1f}" for one in peaks),
            "held_more_mib_after_each_quarter": ", ".join(f"{one:.1f}" for one in held),
            "state_mib": round(threshold.histogram.numel() * threshold.histogram.element_size() / 2**20, 1),
            "sorting_would_hold_gib": round(streamed * height * width * _BYTES_SORTED / 2**30, 2),
            "largest_error": error,
            "documented_bound": 1 / threshold.bins,
        },
    )


def sorted_thresholds(maps: list[Tensor], repeats: int = 1) -> Tensor:
    """The rule itself, as released: keep all predictions as float64, sort those of each class, take the middle one.

    Args:
        maps: Probabilities, (1, K, H, W) each.
        repeats: How often each map occurs in the stream.

    Returns:
        (K,) float64; 0 for a class that is never predicted.
    """
    best = [one.max(1) for one in maps]
    confidence = torch.cat([one.values.double().cpu().flatten() for one in best])
    predicted = torch.cat([one.indices.double().cpu().flatten() for one in best])
    exact = torch.zeros(CLASSES, dtype=torch.float64)
    for k in range(CLASSES):
        ascending = confidence[predicted == k].sort().values
        if len(ascending):
            place = min(round(len(ascending) * repeats / 2), len(ascending) * repeats - 1)
            exact[k] = min(float(ascending[place // repeats]), 0.9)
    return exact


def check_bound(threshold: si.ClassBalancedThreshold, exact: Tensor) -> float:
    """The largest error of the counted thresholds.

    Raises:
        WrongResult: If one lies above the exact threshold, or further below it than a bin is wide.
    """
    below = exact - threshold.compute().cpu()
    if not bool((below >= 0).all() and (below <= 1 / threshold.bins).all()):
        raise WrongResult(f"thresholds leave their bound of {1 / threshold.bins:.3g}: {below.tolist()}")
    return float(below.max())
