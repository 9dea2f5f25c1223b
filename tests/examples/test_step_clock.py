"""Step time, data wait and peak memory: measured over the steps alone, and reported at the end of a run."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from examples.gta5_to_cityscapes import metrics_log
from examples.gta5_to_cityscapes.checkpoint import load_checkpoint, save_checkpoint
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.metrics_log import StepClock, StepCost, time_of_a_step
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import Event, RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training import loop
from examples.gta5_to_cityscapes.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the clock sees; adding to it is all that takes time."""
    now = [0.0]
    monkeypatch.setattr(metrics_log, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.mark.parametrize(("device", "waited"), [("cpu", 0), ("cuda", 4)])
def test_steps_add_up_and_the_queue_of_a_gpu_counts_once(
    hands: list[float], monkeypatch: pytest.MonkeyPatch, device: str, waited: float
) -> None:
    def synchronize(device: torch.device) -> None:
        hands[0] += 4

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    clock = StepClock(torch.device(device))
    for _ in range(2):
        with clock.step(3):
            hands[0] += 1
            with clock.data():
                hands[0] += 6
        hands[0] += 100  # evaluation, saving
    assert clock.read() == StepCost(2, 6, 14.0 + waited, 12.0)
    assert clock.read() == StepCost(seconds=waited)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # that it does not see everything
def test_on_a_real_gpu_no_step_waits() -> None:
    device = torch.device("cuda")
    clock, features = StepClock(device), torch.ones(1 << 24, device=device, requires_grad=True)
    features.sin().mean().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            with clock.step(1):
                features.cos().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    cost = clock.read()
    assert cost.steps == 20
    assert 1e-4 < cost.seconds < 10


def lines_of(run: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "cost"]


def test_a_run_logs_what_its_steps_cost_and_ends_with_the_mean(
    streets: Folders, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, pause = loop.evaluate_recipe, 0.1

    def slow_evaluation(*args: Any, **options: Any) -> Any:
        time.sleep(pause)
        return evaluate(*args, **options)

    monkeypatch.setattr(loop, "evaluate_recipe", slow_evaluation)
    overrides = [*quiet, "schedule.max_steps=8", "schedule.log_every=4", "schedule.evaluate_every=2"]
    recipe = compose_recipe("sim", "smoke", overrides=overrides)
    run, events = RunFolder(tmp_path / "run"), list[Event]()
    result = train(recipe, run, open_training_data(recipe, streets), device=CPU, watch=events.append)
    lines = lines_of(run)
    assert [line["step"] for line in lines] == [4, 8]
    means = {"seconds_per_step", "images_per_second", "data_share"}
    for line in lines:
        assert set(line) == {"step", "kind", *means, "peak_memory_bytes"}
        assert line["seconds_per_step"] * line["images_per_second"] == pytest.approx(4)  # two of each domain
        assert 0 < line["data_share"] < 1
        assert line["peak_memory_bytes"] > 1e7
    assert result.seconds_per_step == pytest.approx(sum(line["seconds_per_step"] for line in lines) / 2)
    assert 8 * result.seconds_per_step < result.seconds_total - 4 * pause
    assert RunFolder(run.path).result() == result
    assert any(re.search(r"\d m?s a step$", event.note) for event in events)


def test_a_resumed_run_counts_the_steps_and_the_memory_before(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=[*quiet, "schedule.max_steps=4", "schedule.log_every=1"])
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Stopped):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, stop_after=3)
    saved = load_checkpoint(run.checkpoint)
    before = StepCost(**saved["cost"])
    assert (before.steps, before.images) == (3, 6)  # of the source alone
    save_checkpoint(run.checkpoint, {**saved, "peak_memory_bytes": 2**50})
    result = train(recipe, run, open_training_data(recipe, streets), device=CPU)
    seconds = [line["seconds_per_step"] for line in lines_of(run)]
    assert sum(seconds[:3]) == pytest.approx(before.seconds)
    assert result.seconds_per_step == pytest.approx(sum(seconds) / 4)
    assert result.peak_memory_bytes == 2**50


def test_costs_of_two_intervals_add_up() -> None:
    both = StepCost(1, 2, 3.0, 1.0) + StepCost(3, 6, 5.0, 1.0)
    assert both == StepCost(4, 8, 8.0, 2.0)
    assert both.means() == {"seconds_per_step": 2.0, "images_per_second": 1.0, "data_share": 0.25}
    assert StepCost().means() == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00042, "0.42 ms"), (0.3514, "351 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (46.13, "46.1 s")],
)
def test_the_time_of_a_step_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert time_of_a_step(seconds) == text
