"""Checkpoints: the last few are kept, and a damaged one is set aside."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.gta5_to_cityscapes.atomic_io import UnwritableError, written_beside
from examples.gta5_to_cityscapes.checkpoint import (
    FORMAT,
    CheckpointError,
    KeptCheckpoints,
    digest_of_weights,
    load_checkpoint,
    save_checkpoint,
)
from examples.gta5_to_cityscapes.training.determinism import random_state, restore_random_state
from examples.gta5_to_cityscapes.training.recipe_network import trained_network


def assert_same(first: object, second: object, where: str) -> None:
    """Equal values, tensors bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where  # type: ignore[arg-type]
    elif isinstance(first, dict):
        assert list(first) == list(second), where  # type: ignore[call-overload]
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")  # type: ignore[index]
    elif isinstance(first, list):
        assert len(first) == len(second), where  # type: ignore[arg-type]
        for i, pair in enumerate(zip(first, second, strict=True)):  # type: ignore[call-overload]
            assert_same(*pair, f"{where}[{i}]")
    else:
        assert first == second, where


def content(step: int) -> dict[str, Any]:
    return {"step": step, "network": {"weight": torch.full((1000,), float(step))}}


def filled(folder: Path, steps: list[int], keep: int) -> KeptCheckpoints:
    kept, before = KeptCheckpoints(folder), None
    for step in steps:
        kept.save(content(step), keep=keep, replaced=before)
        before = step
    return kept


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_byte(path: Path) -> None:
    """In the weights, where torch alone would not notice."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.full((9,), float(load_checkpoint(path)["step"])).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(whole)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
@pytest.mark.parametrize("links", [True, False])
def test_the_last_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, links: bool) -> None:
    def failing_link(*args: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", failing_link)
    steps = [999_998, 999_999, 1_000_000, 1_000_001]
    kept = filled(tmp_path, steps, keep)
    assert load_checkpoint(kept.newest)["step"] == steps[-1]
    earlier = steps[-2::-1][: keep - 1]  # seven digits are later than six
    assert [path.name for path in kept.earlier] == [f"step{step}.pt" for step in earlier]
    assert [load_checkpoint(path)["step"] for path in kept.earlier] == earlier
    assert len(names(tmp_path)) == 1 + len(earlier)


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty])
def test_a_damaged_one_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    kept = filled(tmp_path, [100, 200, 300], 3)
    damage(kept.newest)
    found = kept.load()
    assert found is not None
    assert found["step"] == 200
    assert "last.pt cannot be read, going on from the one before, of step 200" in caplog.text
    assert load_checkpoint(kept.newest)["step"] == 200
    assert names(tmp_path) == ["last.pt", "last.pt.damaged", "step000100.pt"]
    caplog.clear()
    assert torch.equal(kept.load()["network"]["weight"], found["network"]["weight"])  # type: ignore[index]
    assert not caplog.text
    damage(kept.newest)
    damage(tmp_path / "step000100.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt \(.*; step000100\.pt \("):
        kept.load()
    assert {"last.pt", "step000100.pt"} < set(names(tmp_path))


def test_a_missing_checkpoint_falls_back_to_an_earlier_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert KeptCheckpoints(tmp_path / "nowhere").load() is None
    kept = filled(tmp_path, [1, 2], 2)
    kept.newest.unlink()
    assert kept.load()["step"] == 1  # type: ignore[index]
    assert "of step 1" in caplog.text


def test_a_lack_of_memory_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = filled(tmp_path, [1, 2], 2)

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        kept.load()
    assert names(tmp_path) == ["last.pt", "step000001.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_disk_that_is_really_full_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", content(1))

    def save() -> None:
        with written_beside(tmp_path / "last.pt") as beside:
            beside.symlink_to("/dev/full")
            with beside.open("wb") as file:
                torch.save(content(2), file)

    with pytest.raises(UnwritableError, match=r"last\.pt: expected room .* \(No space left on device\)"):
        save()
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1
    assert names(tmp_path) == ["last.pt"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "found none"),
        (b"PK\x03\x04 half a file", "could not read it"),
        ({"weight": torch.zeros(1)}, "something else"),
        ({"format": FORMAT}, "recipe"),
        ({"format": FORMAT, "recipe": {"name": "aa"}, "step": 1}, "recipe"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, found: object, said: str) -> None:
    path = tmp_path / "last.pt"
    if isinstance(found, bytes):
        path.write_bytes(found)
    elif found is not None:
        torch.save(found, path)
    with pytest.raises(CheckpointError, match=rf"last\.pt: .*{said}"):
        trained_network(path, torch.device("cpu"))


def test_random_state_of_all_three_generators_returns(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.gauss(0, 1), float(np.random.normal()), float(torch.rand(())), random.random()

    draw()  # leaves half a pair of Gaussians behind in python's and numpy's generator
    save_checkpoint(tmp_path / "state.pt", random_state())
    expected = [draw(), draw()]
    restore_random_state(load_checkpoint(tmp_path / "state.pt"))
    assert [draw(), draw()] == expected


def test_random_states_of_gpus_that_are_gone_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.zeros(16, dtype=torch.uint8)] * 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(device))
    saved = random_state()
    for count in (0, 1, 2, 4):
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
