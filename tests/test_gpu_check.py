"""``make gpu-check`` without a card: each part runs at tiny sizes; what it recommends follows from its numbers."""

from __future__ import annotations

import inspect
import os
import signal
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import gpu_check
from benchmarks.__main__ import RESULTS
from benchmarks.gpu_check import ENDED, NO_CARD, PARTS, Part, app, as_source, preferences, put_into_results, run_all
from benchmarks.measurement import Measurement, Settings, Timing, read_measurements, write_measurements
from stuffinstance import _backends

CPU = torch.device("cpu")
pytest.importorskip("triton", minversion="3.4", reason="its interpreter runs the kernels from Triton 3.4 on")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu_check")


def in_this_process(name: str, out: Path, seconds: float) -> None:
    gpu_check.run_part(name, gpu_check.settings_on(CPU), out, seconds)


without_a_card = pytest.mark.skipif(torch.cuda.is_available(), reason="the rehearsal for machines without a card")


@without_a_card
@pytest.mark.parametrize("name", PARTS)
def test_each_part_runs_without_a_card(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.tempfile, "tempdir", str(out))
    monkeypatch.setattr(gpu_check, "run_in_a_process", in_this_process)
    assert run_all([name], CPU, out, minutes=8) == {name: ENDED}
    rows = read_measurements(out / f"{name}.json")[name][1]
    timed = {one.way for one in rows if one.timing is not None}
    if name == "components":
        skipped = {one.way for one in rows if one.extra.get("note") == NO_CARD}
        assert skipped == {"cupy per class", "cucim", "colorcc", "colorcc, RGB given, no areas", "CUDA graphs"}
        assert {"kornia union-find", "cc3d one pass"} <= timed
    if name in ("components", "pooling", "network"):
        assert {"stuffinstance torch", "stuffinstance triton"} <= timed
    if name == "network":
        assert "DeepLabV2 ResNet-101, bfloat16, matching" in timed
    if name == "tests":
        on_card, interpreted = rows
        assert (on_card.extra["passed"], on_card.extra["note"]) == (0, NO_CARD)
        assert (interpreted.extra["passed"], interpreted.extra["failed"]) == (2, 0)
    if name == "training":
        assert (rows[0].extra["passed"], rows[0].extra["failed"]) == (3, 0)
    if name == "recipe":
        assert rows[0].extra["ended"] == 1
    monkeypatch.setattr(gpu_check, "run_in_a_process", never)
    assert run_all([name], CPU, out, minutes=8) == {name: ENDED}


def never(name: str, out: Path, seconds: float) -> None:
    raise AssertionError(f"{name} runs twice")


@without_a_card
def test_the_command_prints_what_ran_and_what_to_prefer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PARTS, "tests", Part(lambda settings, seconds: iter([[ran_tests(0)]]), 120))  # type: ignore[index]
    monkeypatch.setattr(gpu_check, "run_in_a_process", in_this_process)
    done = CliRunner().invoke(app, ["tests", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert NO_CARD in done.output
    assert "30 passed, 0 failed" in done.output
    assert as_source(preferences([])) in done.output
    assert CliRunner().invoke(app, ["part"]).exit_code == 2


def test_a_part_that_takes_too_long_is_ended_and_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killed = []
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append(group) or os.kill(group, number))
    with pytest.raises(TimeoutError, match="stopped after 0 s"):
        gpu_check.run_in_a_process("pooling", tmp_path, 0.2)
    (process,) = killed
    with pytest.raises(ProcessLookupError):
        os.kill(process, signal.SIG_DFL)

    write_measurements(tmp_path / "pooling.json", {"pooling": ({"ended": False, "device": "cpu"}, [])})
    ran = []
    monkeypatch.setattr(gpu_check, "run_in_a_process", lambda name, out, seconds: ran.append(name))
    run_all(["pooling"], CPU, tmp_path, minutes=8)
    assert ran == ["pooling"]


@without_a_card
def test_a_part_ends_in_a_process_of_its_own(tmp_path: Path) -> None:
    gpu_check.run_in_a_process("thresholds", tmp_path, 200)
    assert gpu_check.ended_on(tmp_path / "thresholds.json", CPU)


def test_nothing_is_begun_that_cannot_end(tmp_path: Path) -> None:
    assert set(run_all(list(PARTS), CPU, tmp_path, minutes=0.2).values()) == {"no time left"}


def test_a_part_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str, out: Path, seconds: float) -> None:
        if name == "tests":
            raise ChildProcessError("ended with code 1")

    monkeypatch.setattr(gpu_check, "run_in_a_process", broken)
    assert run_all(["tests", "step"], CPU, tmp_path, minutes=8) == {"tests": "ended with code 1", "step": ENDED}


def ran_tests(failed: int) -> Measurement:
    return Measurement("tests", "tests/test_cuda.py", "pytest", None, None, {"passed": 30, "failed": failed})


def timed(benchmark: str, case: str, torch_ms: float, triton_ms: float) -> list[Measurement]:
    return [
        Measurement(benchmark, case, f"stuffinstance {name}", Timing(ms, ms, ms, 9))
        for name, ms in (("torch", torch_ms), ("triton", triton_ms))
    ]


@pytest.mark.parametrize(
    ("failed", "noise", "order", "why"),
    [
        (0, 2.0, ("triton",), "triton is 4 times as fast as torch over 2 cases, 2 times in the worst, noise; 30 tests"),
        (0, 0.7, ("triton",), "0.7 times in the worst"),
        (0, 0.6, (), "0.6 times in the worst"),
        (1, 2.0, (), "1 tests failed"),
    ],
)
def test_a_backend_is_preferred_that_is_right_and_faster(
    failed: int, noise: float, order: tuple[str, ...], why: str
) -> None:
    measured = [ran_tests(failed), *timed("components", "street", 8.0, 1.0), *timed("components", "noise", noise, 1.0)]
    found = preferences(measured)
    assert found["connected_components"].order == order
    assert why in found["connected_components"].why
    assert found["region_mean"].order == ()
    namespace: dict[str, object] = {}
    exec(as_source(found).split(" = ")[0].split(":")[0] + " = " + as_source(found).split(" = ")[1], namespace)
    assert namespace["PREFERRED_ON_GPU"] == {"connected_components": order, "region_mean": ()}


def test_the_library_prefers_what_the_results_of_cards_say() -> None:
    cards = [path for path in RESULTS.glob("*.json") if "tests" in read_measurements(path)]
    found = [preferences([one for _, rows in read_measurements(path).values() for one in rows]) for path in cards]
    assert all(as_source(one) in inspect.getsource(_backends) for one in found or [preferences([])])


def test_only_results_of_one_card_are_kept(tmp_path: Path) -> None:
    settings = Settings(CPU)
    where = gpu_check.environment(settings) | {"ended": True}
    with pytest.raises(Exception, match="needs results of one card in OUT, got cpu"):
        put_into_results({"tests": (where, [ran_tests(0)])}, tmp_path)
    path = put_into_results({"tests": (where | {"device": "NVIDIA H200"}, [ran_tests(0)])}, tmp_path)
    assert path.name == "nvidia-h200.json"
    assert "tests/test_cuda.py" in path.with_suffix(".md").read_text()
