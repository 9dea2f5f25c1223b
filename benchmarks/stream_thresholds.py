"""How much memory class-balanced thresholds need while a whole training set streams through.

    python benchmarks/stream_thresholds.py --images 3000

Four street-like probability maps are made once and streamed in turn, so the exact thresholds are known from them; the
script stops with an error if the streamed ones leave their documented bound. Sorting instead, as the released code
does, holds one float64 confidence and one float64 label a pixel: 16 bytes for each.
"""

import argparse
import json
import platform
import resource
import time

import torch
from torch import Tensor

import stuffinstance as si

CLASSES, HEIGHT, WIDTH, MAPS = 19, 512, 1024, 4


def probability_maps() -> list[Tensor]:
    """Softmax of smooth noise with a preference by height: regions, and classes of unequal share and confidence."""
    torch.manual_seed(0)
    lean = torch.linspace(-2, 2, CLASSES)[:, None, None] * torch.linspace(-1, 1, HEIGHT)[:, None]
    maps = []
    for _ in range(MAPS):
        coarse = torch.randn(1, CLASSES, HEIGHT // 32, WIDTH // 32) * 3
        logits = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear") + lean
        maps.append(logits.softmax(1))
    return maps


def exact_thresholds(maps: list[Tensor], repeats: int) -> Tensor:
    """The rule itself: sort the confidences of each class and take the one in the middle."""
    confidence, predicted = torch.cat([one.max(1).values for one in maps]), torch.cat([one.argmax(1) for one in maps])
    exact = torch.zeros(CLASSES, dtype=torch.float64)
    for k in range(CLASSES):
        ascending = confidence[predicted == k].double().sort().values
        if len(ascending):
            place = min(round(len(ascending) * repeats / 2), len(ascending) * repeats - 1)
            exact[k] = min(float(ascending[place // repeats]), 0.9)
    return exact


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(images: int, threads: int) -> None:
    """Stream, measure, compare, print one JSON object."""
    torch.set_num_threads(threads)
    maps = probability_maps()
    threshold = si.ClassBalancedThreshold(CLASSES)
    for one in maps:  # warm-up: the allocator has seen every size
        threshold.update(one)
    threshold.reset()
    before, started = peak_mib(), time.perf_counter()
    peaks = []
    streamed = images // MAPS * MAPS
    for number in range(streamed):
        threshold.update(maps[number % MAPS])
        if (number + 1) % (streamed // 4) == 0:
            peaks.append(round(peak_mib(), 1))
    seconds = time.perf_counter() - started
    below = exact_thresholds(maps, images // MAPS) - threshold.compute()
    if not bool((below >= 0).all() and (below <= 1 / threshold.bins).all()):
        raise SystemExit(f"thresholds leave their bound: {below.tolist()}")
    print(
        json.dumps(
            {
                "images": streamed,
                "size": [HEIGHT, WIDTH],
                "peak_mib_before": round(before, 1),
                "peak_mib_at_each_quarter": peaks,
                "state_mib": threshold.histogram.numel() * 8 / 2**20,
                "sorting_would_hold_gib": round(streamed * HEIGHT * WIDTH * 16 / 2**30, 2),
                "megapixels_per_second": round(streamed * HEIGHT * WIDTH / seconds / 1e6, 1),
                "largest_error": float(below.max()),
                "documented_bound": 1 / threshold.bins,
                "torch": torch.__version__,
                "machine": f"{platform.machine()}, {threads} thread(s)",
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.images, arguments.threads)
