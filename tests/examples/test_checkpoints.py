"""A run that stopped and went on equals one that never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.gta5_to_cityscapes.atomic_io import written_beside
from examples.gta5_to_cityscapes.checkpoint import (
    CheckpointError,
    digest_of_weights,
    load_checkpoint,
    save_checkpoint,
)
from examples.gta5_to_cityscapes.data.loader import BatchStream
from examples.gta5_to_cityscapes.data.training_data import Folders, open_target, open_training_data
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import Event, RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.determinism import random_state, restore_random_state
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.recipe_network import trained_network

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same(first: object, second: object, where: str) -> None:
    """Equal values, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor)
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert isinstance(second, list)
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    else:
        assert first == second, where


def measured(run: RunFolder) -> list[dict[str, object]]:
    """The metrics without the clock."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds"} for line in lines if line["kind"] != "cost"]


@pytest.mark.parametrize(("workers", "stops"), [(0, [3, 8]), (1, [5])])
def test_resuming_equals_never_having_stopped(
    streets: Folders, tmp_path: Path, quiet: list[str], workers: int, stops: list[int]
) -> None:
    overrides = [*quiet, f"runtime.num_workers={workers}", "matching.capacity=2", "runtime.cache=false"]
    recipe = compose_recipe("aa+it+sim", "smoke", overrides=overrides)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train(recipe, whole, open_training_data(recipe, streets), device=CPU)
    for step in stops:
        with pytest.raises(Stopped, match=f"stopped at step {step} of 12"):
            train(recipe, parts, open_training_data(recipe, streets), device=CPU, stop_after=step)
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)
    train(recipe, parts, open_training_data(recipe, streets), device=CPU)
    first, second = load_checkpoint(whole.checkpoint), load_checkpoint(parts.checkpoint)
    for each in (first, second):
        assert each.pop("seconds") >= each.pop("cost")["seconds"] > 0
        assert each.pop("peak_memory_bytes") > 0
    assert_same(first, second, "checkpoint")
    assert first["sim"]["stuff_bank.written"].sum() > 0
    assert measured(whole) == measured(parts)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.usefixtures("sigint_heard")
def test_a_signal_saves_and_says_how_to_go_on(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    recipe = compose_recipe("source", "smoke", overrides=quiet)
    run = RunFolder(tmp_path / "run")

    notes: list[str] = []

    def interrupt(event: Event) -> None:
        if event.kind == "stopping":
            notes.append(event.note)
        elif event.done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="same command again"):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, watch=interrupt)
    assert 4 <= load_checkpoint(run.checkpoint)["step"] < 12
    assert notes == ["stopping: this step is ended and saved first. Ctrl-C again after 2 seconds ends without saving."]
    assert train(recipe, run, open_training_data(recipe, streets), device=CPU).step == 12
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("sigint_ignored")
def test_a_run_in_the_background_ignores_ctrl_c_and_is_stopped_by_sigterm(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=quiet)
    run = RunFolder(tmp_path / "run")

    def interrupt(event: Event) -> None:
        if event.done in (2, 6):
            os.kill(os.getpid(), signal.SIGINT if event.done == 2 else signal.SIGTERM)

    with pytest.raises(Stopped, match="same command again"):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, watch=interrupt)
    assert 6 <= load_checkpoint(run.checkpoint)["step"] < 12
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_half_a_line_of_metrics_and_lines_past_the_checkpoint_are_dropped(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=quiet)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Stopped):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, stop_after=5)
    with run.metrics.open("a") as file:
        file.write('{"step": 6, "kind": "train", "loss/segmentation": 1.0}\n{"step": 7, "ki')
    train(recipe, run, open_training_data(recipe, streets), device=CPU)
    steps = [line["step"] for line in measured(run) if line["kind"] == "train"]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_random_state_of_all_three_generators_returns(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.gauss(0, 1), float(np.random.normal()), float(torch.rand(())), random.random()

    draw()  # leaves half a pair of Gaussians behind in python's and numpy's generator
    save_checkpoint(tmp_path / "state.pt", random_state())
    expected = [draw(), draw()]
    saved = load_checkpoint(tmp_path / "state.pt")
    restore_random_state(saved)
    assert [draw(), draw()] == expected


def test_random_states_of_gpus_that_are_gone_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.zeros(16, dtype=torch.uint8)] * 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(device))
    saved = random_state()
    for count in (1, 2, 4):
        restored.clear()
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        restore_random_state(saved)
        assert restored == list(range(min(2, count)))


def test_the_digest_is_of_weights_alone() -> None:
    state = {"b": torch.arange(4.0), "a": torch.tensor(3), "c": torch.ones(2, 2, dtype=torch.bfloat16)}
    digest = digest_of_weights(state)
    assert digest == digest_of_weights(dict(reversed(state.items())))
    assert digest != digest_of_weights({**state, "a": torch.tensor(4)})
    assert digest != digest_of_weights({**state, "b": torch.arange(4.0).view(2, 2)})


def test_peak_memory_is_the_largest_over_a_resume(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    recipe = compose_recipe("source", "smoke", overrides=[*quiet, "schedule.max_steps=2"])
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Stopped):
        train(recipe, run, open_training_data(recipe, streets), device=CPU, stop_after=1)
    saved = load_checkpoint(run.checkpoint)
    saved["peak_memory_bytes"] = 2**50
    save_checkpoint(run.checkpoint, saved)
    assert train(recipe, run, open_training_data(recipe, streets), device=CPU).peak_memory_bytes == 2**50


def test_a_stream_goes_on_where_it_stood(streets: Folders, quiet: list[str]) -> None:
    dataset = open_target(compose_recipe("aa", "smoke", overrides=quiet), streets)
    whole = BatchStream(dataset, 3, seed=5)
    names = [next(whole)[0].names for _ in range(6)]
    begun = BatchStream(dataset, 3, seed=5)
    for _ in range(3):
        next(begun)
    rest = BatchStream(dataset, 3, seed=5, position=begun.position)
    assert [next(rest)[0].names for _ in range(3)] == names[3:]
    drawn = [name for batch in names for name in batch][: 4 * len(dataset)]
    for start in range(0, len(drawn) - len(dataset) + 1, len(dataset)):  # every epoch shows each image once
        assert sorted(drawn[start : start + len(dataset)]) == sorted(dataset.names)
    assert [next(BatchStream(dataset, 3, seed=6))[0].names] != names[:1]


@pytest.mark.parametrize("content", [{}, {"recipe": {"name": "aa"}, "step": 1}, {"recipe": 3}])
def test_a_checkpoint_without_its_recipe_is_rejected(tmp_path: Path, content: dict[str, object]) -> None:
    save_checkpoint(tmp_path / "last.pt", content)
    with pytest.raises(CheckpointError, match="expected the recipe of its run and a step in it"):
        trained_network(tmp_path / "last.pt", CPU)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        load_checkpoint(tmp_path / "absent.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(CheckpointError, match="could not read it"):
        load_checkpoint(tmp_path / "torn.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="something else"):
        load_checkpoint(tmp_path / "other.pt")


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"format": 1, "x": Malicious()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write_half() -> None:
        with written_beside(target) as beside:
            beside.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
