"""What a run can go on from after damage, a full disk, or data that is gone for a while."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.gta5_to_cityscapes.atomic_io import FullDiskError, written_beside
from examples.gta5_to_cityscapes.checkpoint import CheckpointError, KeptCheckpoints, load_checkpoint, save_checkpoint
from examples.gta5_to_cityscapes.cli.app import EXPECTED
from examples.gta5_to_cityscapes.data import DatasetError
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.recipes import Recipe, compose_recipe
from examples.gta5_to_cityscapes.run_dir import Event, RunFolder, RunFolderError, Watch, unwatched
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train

from .killed_runs import PRELOADED

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


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


def measured(run: RunFolder) -> dict[tuple[str, int], dict[str, Any]]:
    """What was measured, without the clock; of several lines on one step the later one."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    clocked = {(line["kind"], line["step"]): {**line, "seconds": None} for line in lines}
    return {key: dict.fromkeys(line) if key[0] == "cost" else line for key, line in clocked.items()}


def empty(path: Path) -> None:
    path.write_bytes(b"")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (1, ["last.pt"]),
        (2, ["last.pt", "step000003.pt"]),
        (3, ["last.pt", "step000002.pt", "step000003.pt"]),
        (9, ["last.pt", "step000001.pt", "step000002.pt", "step000003.pt"]),
    ],
)
@pytest.mark.parametrize("links", [True, False])
def test_the_last_few_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, left: list[str], links: bool
) -> None:
    def failing_link(*args: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", failing_link)
    kept = filled(tmp_path, [1, 2, 3, 4], keep)
    assert names(tmp_path) == left
    assert load_checkpoint(kept.newest)["step"] == 4
    for path in kept.earlier:
        assert load_checkpoint(path)["step"] == int(path.stem.removeprefix("step"))
    assert [path.name for path in kept.earlier] == sorted(left[1:], reverse=True)


def test_seven_digits_are_later_than_six(tmp_path: Path) -> None:
    kept = filled(tmp_path, [999_999, 1_000_000, 1_000_001], 3)
    assert [path.name for path in kept.earlier] == ["step1000000.pt", "step999999.pt"]


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
    with pytest.raises(CheckpointError, match=r"could not read any: last.pt \(.*; step000100.pt \(.*Put a copy"):
        kept.load()
    assert {"last.pt", "step000100.pt"} < set(names(tmp_path))


def test_a_missing_checkpoint_falls_back_to_an_earlier_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert KeptCheckpoints(tmp_path / "nowhere").load() is None
    kept = filled(tmp_path, [1, 2], 2)
    kept.newest.unlink()
    assert kept.load()["step"] == 1  # type: ignore[index]
    assert "last.pt is gone, going on from the one before, of step 1." in caplog.text


def test_a_lack_of_memory_or_permission_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = filled(tmp_path, [1, 2], 2)

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        kept.load()
    assert names(tmp_path) == ["last.pt", "step000001.pt"]


def opened_and_trained(recipe: Recipe, folders: Folders, run: RunFolder, watch: Watch = unwatched) -> Any:
    return train(recipe, run, open_training_data(recipe, folders), device=CPU, watch=watch)


def test_a_run_whose_newest_is_damaged_ends_with_the_same_weights(
    streets: Folders, tmp_path: Path, quiet: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=[*quiet, "schedule.save_every=3", "schedule.max_steps=8"])
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    expected = opened_and_trained(recipe, streets, whole)
    with pytest.raises(Stopped):
        train(recipe, parts, open_training_data(recipe, streets), device=CPU, stop_after=7)
    flip_a_weight = bytearray(parts.checkpoint.read_bytes())
    flip_a_weight[len(flip_a_weight) // 2] ^= 255
    parts.checkpoint.write_bytes(flip_a_weight)
    (parts.path / ".metrics.jsonl.123.part").touch()  # of a process that was killed
    events: list[Event] = []
    assert opened_and_trained(recipe, streets, parts, events.append).weights_sha256 == expected.weights_sha256
    assert events[0].done == 6
    assert "of step 6" in caplog.text
    lines = [json.loads(line) for line in parts.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8]
    assert names(parts.checkpoint.parent) == ["last.pt", "last.pt.damaged", "step000006.pt"]
    assert not list(parts.path.rglob("*.part"))


class FullDisk:
    """A file on a disk that fills up: from then on nothing more can be written."""

    def __init__(self, file: Any, full: Callable[[], bool], code: int) -> None:
        self.file, self.full, self.code = file, full, code

    def write(self, data: Any) -> int:
        if self.full():
            raise OSError(self.code, os.strerror(self.code))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("what", "kept"), [("last.pt", 2), ("metrics.jsonl", 2), ("result.json", 5)])
def test_a_full_disk_keeps_what_is_there(
    streets: Folders, tmp_path: Path, quiet: list[str], monkeypatch: pytest.MonkeyPatch, what: str, kept: int, code: int
) -> None:
    overrides = [*quiet, "schedule.save_every=2", "schedule.max_steps=5", "schedule.log_every=1"]
    recipe = compose_recipe("source", "smoke", overrides=overrides)
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    reached, open_file = 0, Path.open

    def watch(event: Event) -> None:
        nonlocal reached
        reached = event.done

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = open_file(path, mode, *args, **kwargs)
        return FullDisk(file, lambda: reached > 2, code) if what in path.name and mode[0] in "wa" else file

    def written(path: Path, text: str, encoding: str) -> None:
        with opened(path, "w", encoding=encoding) as file:
            file.write(text)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(Path, "write_text", written)
        with pytest.raises(EXPECTED) as said:
            opened_and_trained(recipe, streets, run, watch)
    assert said.type is FullDiskError
    assert f"{what}: expected room to write it, got none ({os.strerror(code)})" in str(said.value)
    assert "free some space, then give the same command again" in str(said.value)
    assert f"The checkpoint of step {kept} is kept in {run.checkpoint}" in str(said.value)
    assert load_checkpoint(run.checkpoint)["step"] == kept
    assert not list(run.path.rglob("*.part"))
    result = opened_and_trained(recipe, streets, run)
    assert result.weights_sha256 == opened_and_trained(recipe, streets, whole).weights_sha256
    assert measured(run) == measured(whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_disk_that_is_really_full_is_reported(tmp_path: Path) -> None:
    def save() -> None:
        with written_beside(tmp_path / "result.pt") as beside:
            beside.symlink_to("/dev/full")
            with beside.open("wb") as file:
                torch.save(content(1), file)

    with pytest.raises(FullDiskError, match=r"result\.pt: expected room .* \(No space left on device\)"):
        save()
    assert not names(tmp_path)


def save_too_much(path: Path, said: Any) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    try:
        save_checkpoint(path, content(2))
    except FullDiskError as error:
        said.send(str(error))


@pytest.mark.skipif(os.name != "posix", reason="sets a limit on the size of files")
def test_a_write_that_really_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", content(1))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=save_too_much, args=(tmp_path / "last.pt", there))
    process.start()
    there.close()
    assert "last.pt: expected room to write it, got none (File too large)" in here.recv()
    process.join()
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1
    assert names(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_vanished_folder_or_a_corrupt_image_stops_a_run_that_then_goes_on(
    streets: Folders, tmp_path: Path, quiet: list[str], domain: str, workers: int
) -> None:
    folders = Folders(tmp_path / "gta5", tmp_path / "cityscapes")
    shutil.copytree(streets.source.parent, tmp_path, dirs_exist_ok=True)
    overrides = [*quiet, "runtime.cache=false", f"runtime.num_workers={workers}", "schedule.save_every=2"]
    recipe = compose_recipe("aa", "smoke", overrides=[*overrides, "schedule.log_every=1"])
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    folder = folders.source / "images" if domain == "source" else folders.target / "leftImg8bit" / "train"
    hidden = folder.with_name("hidden")

    def vanish(event: Event) -> None:
        if event.done == 2:
            folder.rename(hidden)

    with pytest.raises(DatasetError, match=r"found no file. Check the data set folder. .*same command goes on") as said:
        opened_and_trained(recipe, folders, run, vanish)
    assert str(folder) in str(said.value)
    assert "Traceback" not in str(said.value)
    hidden.rename(folder)
    kept = load_checkpoint(run.checkpoint)["step"]
    assert kept >= 2
    assert f"The checkpoint of step {kept} is kept" in str(said.value)

    images = {path: path.read_bytes() for path in folder.rglob("*.png")}

    def corrupt(event: Event) -> None:
        if event.note.startswith("going on"):
            for path, whole_file in images.items():
                path.write_bytes(whole_file[: len(whole_file) // 2])

    with pytest.raises(DatasetError, match=r"\.png: expected a complete image.*copy it again.*same command goes on"):
        opened_and_trained(recipe, folders, run, corrupt)
    assert load_checkpoint(run.checkpoint)["step"] >= kept
    with pytest.raises(RunFolderError, match="put the files back as they were"):
        opened_and_trained(recipe, folders, run)
    for path, whole_file in images.items():
        path.write_bytes(whole_file)
    result = opened_and_trained(recipe, folders, run)
    assert result.weights_sha256 == opened_and_trained(recipe, folders, whole).weights_sha256
