"""What the report says beside its numbers, and the points of its curves."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from examples.gta5_to_cityscapes.report import write_report
from examples.gta5_to_cityscapes.report.curves import _binned

from .test_report import make_run


@pytest.mark.parametrize("steps", [1300, 650, 1298, 10])
def test_no_point_of_a_loss_curve_stands_on_a_bin_cut_short(steps: int) -> None:
    training = [{"step": step, "loss/stuff": float(step)} for step in range(1, steps + 1)]
    run = SimpleNamespace(training=training, last_step=steps)
    points = _binned(run, "loss/stuff", 22)  # type: ignore[arg-type]
    starts = [*points, steps + 1]
    widths = [after - start for start, after in pairwise(starts)]
    assert steps < 22 or min(widths) >= 22
    last = range(max(1, starts[-2]), steps + 1)
    assert points[starts[-2]] == pytest.approx(sum(last) / len(last))


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_is_said_to_be_one(tmp_path: Path, seeds: int) -> None:
    for seed in range(seeds):
        for recipe, miou in (("source", 20.0), ("aa", 22.0)):
            make_run(tmp_path / "city", recipe, seed, miou + seed)
    page = write_report(tmp_path / "city")
    words, table = page.read_text(), page.with_name("table.md").read_text()
    assert ("differences of a point or two may be luck" in words) == (seeds == 1)
    assert ("one seed: differences of a point or two may be luck" in table) == (seeds == 1)
    for text in (words, table):
        assert ("±" in text) == (seeds > 1)
