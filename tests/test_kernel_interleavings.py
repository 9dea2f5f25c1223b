"""Whatever order the accesses of the labeling kernels take, the numbers are those of raster order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests.kernel_interleavings import SCHEDULES, Race, Schedule, Simulator
from tests.label_maps import IGNORE, checkerboard, comb, diagonals, noise, snake, spiral, staircase_v

MAPS = {
    "comb": comb(3, 7, joined_below=True),  # all teeth meet in one row: many hooks of the same roots
    "comb-right": comb(7, 3, joined_below=True).transpose(1, 2).contiguous(),
    "v": staircase_v(3),
    "snake": snake(5, 4),
    "spiral": spiral(4, 6),
    "checkerboard": checkerboard(4, 5, 0, 1),
    "diagonals": diagonals(4, 5),
    "noise": noise(3, 4, (0, 1, IGNORE), 1, batch=2),
    "two-rows": noise(2, 9, (0, IGNORE), 3),
    "column": torch.zeros(1, 9, 1, dtype=torch.int64),
}
RUNS = 50  # of each map by each schedule
WARPS = (2, 4, 8)


def interleavings(simulator: Simulator, labels: Tensor, schedule: type[Schedule], runs: int) -> None:
    expected = {c: si.connected_components(labels, connectivity=c, backend="reference") for c in (4, 8)}
    for seed in range(runs):
        connectivity, warp = (8, 8, 4)[seed % 3], WARPS[seed % 7 % 3]
        classes = (None, tuple(range(10)))[seed % 5 % 2]  # without keys and with
        numbers = simulator.label(labels, classes, connectivity, schedule(seed), warp)
        assert torch.equal(numbers, expected[connectivity]), (seed, numbers)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", MAPS)
def test_numbers_do_not_depend_on_the_order_of_accesses(name: str, schedule: type[Schedule]) -> None:
    interleavings(Simulator(), MAPS[name], schedule, RUNS)


HOOK = 'before = tl.atomic_min(parent + high, low, mask=active, sem="relaxed")'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            HOOK,
            "before = tl.load(parent + high, mask=active, volatile=True)\n"
            "        tl.store(parent + high, tl.minimum(before, low), mask=active)",
        ),
        (HOOK, f"{HOOK}\n        before = high"),
        ("tl.where(number < 0, -1 - number, number)", "-1 - number"),
    ],
    ids=[
        "a hook in two steps",
        "a displaced link is forgotten",
        "a number is read as a root's cell",
    ],
)
def test_the_simulator_finds_lost_unions(text: str, fault: str) -> None:
    broken = Simulator([(text, fault)])
    with pytest.raises(AssertionError, match="tensor"):
        interleavings(broken, MAPS["comb"], Schedule, RUNS)


def test_the_simulator_finds_plain_loads_of_what_others_write() -> None:
    plain = Simulator([(", volatile=True)", ")")])
    with pytest.raises(Race, match="plainly, which another one writes"):
        interleavings(plain, MAPS["comb"], Schedule, RUNS)


def test_the_simulator_finds_loops_without_end() -> None:
    endless = Simulator([("one = _root(parent, tl.where(active, before, low), active, HALVES=True)", "one = high")])
    with pytest.raises(AssertionError, match="has not ended"):
        interleavings(endless, MAPS["comb"], Schedule, RUNS)
