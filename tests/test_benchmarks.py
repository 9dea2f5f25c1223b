"""``python -m benchmarks``: what it measures is checked first, kept whole, and judged row by row."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import stuffinstance as si
from benchmarks import thresholds, timing
from benchmarks.__main__ import PARTS, app, measure
from benchmarks.components import THINGS, cases, compare
from benchmarks.label_maps import city_labels
from benchmarks.labeling_ways import WAYS, Found
from benchmarks.measurement import Floor, Measurement, Settings, Timing, WrongResult, read_measurements
from benchmarks.measurement import write_measurements as write
from benchmarks.region_oracle import expected_regions, fault, fault_of_largest, fault_of_numbers
from benchmarks.targets import TARGETS
from benchmarks.timing import time_in_turn
from tests import oracles
from tests.label_maps import GALLERY

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
QUICK = Settings(CPU, threads=1, quick=True, repeats=3, seconds_per_way=0.01)
SMALL = torch.tensor([[[13, 13, 0, 13], [255, 0, 0, 11], [11, 0, 13, 13]]])


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    words = ["components", "thresholds", "--quick", "--threads", str(torch.get_num_threads()), "--out", str(out)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def test_a_run_keeps_all_that_it_measured(quick_run: Path) -> None:
    held = read_measurements(quick_run / "cpu.json")
    assert list(held) == ["components", "thresholds"]
    where, measured = held["components"]
    assert where["quick"]
    assert where["load"] is None or where["load"] >= 0
    assert where["versions"]["torch"] == torch.__version__
    assert where["versions"]["cupy"] == "not installed"
    assert {one.case for one in measured} == {name for name, _ in cases(QUICK)}
    assert {one.way for one in measured} >= {*WAYS, "stuffinstance auto, areas", "stuffinstance instance_regions"}
    for one in measured:
        assert one.timing is not None or one.extra.keys() & {"note", "wrong"}
        assert one.floor is not None
        assert one.floor.ms > 0


def test_every_target_has_a_row_on_the_page(quick_run: Path) -> None:
    page = (quick_run / "cpu.md").read_text()
    for target in TARGETS.values():
        assert f"| {target.description}" in page
    assert f"torch {torch.__version__}" in page
    assert (quick_run / "cpu_components.png").stat().st_size > 1000


def test_a_second_run_replaces_its_part_alone(quick_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text((quick_run / "cpu.json").read_text())
    only = Measurement("thresholds", "one", "way", Timing(1.0, 0.5, 2.0, 3))
    monkeypatch.setattr(thresholds, "run", lambda settings: [only])
    measure(["thresholds"], QUICK, tmp_path)
    held = read_measurements(tmp_path / "cpu.json")
    assert held["thresholds"][1] == [only]
    assert held["components"][1] == read_measurements(quick_run / "cpu.json")["components"][1]


@pytest.mark.parametrize(
    ("words", "message"), [(["regions"], "parts must be of components"), (["--device", "tpu"], "must be cpu or cuda")]
)
def test_what_cannot_be_run_is_rejected(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, [*words, "--quick"])
    assert done.exit_code == 2
    assert message in done.output


def test_every_part_can_be_imported_and_run() -> None:
    for module in PARTS.values():
        assert callable(__import__(module, fromlist=["run"]).run)


# ------------------------------------------------------------------ a wrong result stops the run


def joined_by_edges(labels: Tensor, things: tuple[int, ...]) -> Found:
    numbers = si.connected_components(labels, classes=things, connectivity=4)
    return Found(list(numbers), None)


def test_a_library_that_is_wrong_stops_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(WAYS, "broken", replace(WAYS["cc3d one pass"], find=joined_by_edges))
    done = CliRunner().invoke(app, ["components", "--quick", "--threads", "1", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "wrong result" in done.output
    assert not list(tmp_path.iterdir())


def test_a_way_known_to_be_wrong_is_reported_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WAYS, "broken", replace(WAYS["cc3d one pass"], find=joined_by_edges, exact=False))
    corner = torch.tensor([[[13, 0], [0, 13]]])
    (one,) = [m for m in compare("corner", corner, QUICK) if m.way == "broken"]
    assert one.timing is None
    assert one.extra == {"wrong": "image 0: 2 regions where there are 1"}


def test_an_own_way_that_is_wrong_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    right = si.instance_regions
    monkeypatch.setattr(si, "instance_regions", lambda labels, things: right(labels, things, connectivity=4))
    with pytest.raises(WrongResult, match="instance_regions on corner"):
        compare("corner", torch.tensor([[[13, 0], [0, 13]]]), QUICK)


def test_thresholds_out_of_their_bound_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(si.ClassBalancedThreshold):
        def compute(self) -> Tensor:
            return super().compute() - 2 / self.bins

    monkeypatch.setattr(si, "ClassBalancedThreshold", Late)
    with pytest.raises(WrongResult, match="leave their bound"):
        thresholds.run(QUICK)


# ------------------------------------------------------------------ the oracle of the components


@pytest.mark.parametrize("name", ["street", "blocks", "spiral", "noise-19", "diagonals", "all-ignored", "one-pixel"])
def test_the_graph_search_equals_the_flood_fill(name: str) -> None:
    for image in GALLERY[name].numpy():
        classes = (0, 1, 2, 4, 5, 6, 13)
        expected = expected_regions(image, classes)
        numbers = oracles.components(image, classes=classes)
        assert np.array_equal(expected.numbers, numbers)
        assert expected.area.tolist() == [int((numbers == n).sum()) for n in range(1, numbers.max() + 1)]
        assert expected.category.tolist() == [image[numbers == n][0] for n in range(1, numbers.max() + 1)]


def test_every_kind_of_fault_is_found() -> None:
    expected = [expected_regions(image, THINGS) for image in SMALL.numpy()]
    right = expected[0].numbers
    assert right.max() == 5
    areas = [np.array([2, 1, 1, 1, 2, 0])]
    assert fault(Found([right], areas), expected) is None
    assert fault(Found([right * 7 % 11], areas), expected) is None  # other numbers, the same regions
    assert fault(Found([right], [np.array([2, 1, 1, 2, 2])]), expected) == "areas differ"
    assert fault(Found([], None), expected) == "0 images where there are 1"
    assert (
        fault(Found([np.where(right == 5, 4, right)], None), expected) == "image 0: 1 regions are merged with another"
    )
    assert fault(Found([right * 0], None), expected) == "image 0: other pixels belong to a region"
    split = right.copy()
    split[0, 0] = 9
    assert fault(Found([split], None), expected) == "image 0: 6 regions where there are 5"
    assert fault_of_numbers(torch.from_numpy(split)[None], expected) == "1 pixels have another number"
    regions = si.instance_regions(SMALL, THINGS)
    assert fault_of_largest(regions, THINGS, expected) is None
    for field in ("region_map", "ids", "area"):
        changed = getattr(regions, field).clone()
        changed[changed > 0] += 1
        assert fault_of_largest(regions._replace(**{field: changed}), THINGS, expected) is not None


# ------------------------------------------------------------------ inputs, times, memory, files


def test_streets_are_resized_as_features_are_and_repeat_mirrored() -> None:
    labels = city_labels(9, 16, 32)
    assert torch.equal(labels[4], labels[0].flip(1))
    assert torch.equal(labels[8], labels[0])
    assert torch.equal(labels[0], si.resize_labels(city_labels(1, 128, 256), (16, 32))[0])
    ids = set(labels.unique().tolist())
    assert ids & set(si.CITYSCAPES.stuff)
    assert ids & set(THINGS)
    assert ids <= {*range(19), 255}


def test_every_way_runs_in_every_round_it_can_afford() -> None:
    order: list[str] = []
    ways = {"first": lambda: order.append("first"), "second": lambda: order.append("second")}
    timings = time_in_turn(ways, replace(QUICK, repeats=5, seconds_per_way=1.0))
    assert order[-20:] == ["first", "first", "second", "second"] * 5  # short ones once more, untimed
    assert list(timings) == ["first", "second"]
    assert timings["first"].repeats == 5
    assert timings["first"].low_ms <= timings["first"].median_ms <= timings["first"].high_ms


def test_a_slow_way_is_called_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_milliseconds", lambda call, device: call())
    timings = time_in_turn({"slow": lambda: 1e6, "fast": lambda: 25.0}, replace(QUICK, repeats=9, seconds_per_way=1.0))
    assert timings == {"slow": Timing(1e6, 1e6, 1e6, 3), "fast": Timing(25.0, 25.0, 25.0, 9)}


PEAK_MEMORY = """
import gc, torch
from benchmarks.timing import peak_memory

class Cycle:
    def __init__(self, held):
        self.itself, self.held = self, held

class LetsGoLate(Cycle):
    def __del__(self):
        Cycle(self.held)  # garbage of the next search for garbage

LetsGoLate(torch.zeros(64 * 2**18))

def call():
    gc.collect()  # as it may run by itself during any call
    torch.zeros(16 * 2**18).add_(1)

print(peak_memory(call, torch.device("cpu")))
"""


def test_peak_memory_is_that_of_the_call() -> None:
    """In a process of its own: others' freed memory may be reused without a trace."""
    command = [sys.executable, "-c", PEAK_MEMORY]
    peak = float(subprocess.run(command, cwd=ROOT, check=True, timeout=120, capture_output=True).stdout)
    if math.isnan(peak):
        pytest.skip("this system does not let the high-water mark be reset")
    assert 15 <= peak <= 24


def test_measurements_come_back_as_they_were_written(tmp_path: Path) -> None:
    full = Measurement("a", "b", "c", Timing(1.5, 1.0, 2.0, 7), Floor("copy", 0.5, bytes=8), {"n": 1, "w": "x"})
    odd = Measurement("a", "b", "d", None, None, {"peak_mib": math.nan})
    write(tmp_path / "new" / "cpu.json", {"a": ({"commit": None}, [full, odd])})
    where, measured = read_measurements(tmp_path / "new" / "cpu.json")["a"]
    assert where == {"commit": None}
    assert measured == [full, replace(odd, extra={"peak_mib": "unmeasured"})]
