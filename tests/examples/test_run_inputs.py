"""A run is identified by the content of everything that it reads: not by names, sizes, times or places."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.gta5_to_cityscapes import input_files
from examples.gta5_to_cityscapes.data import DatasetError
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.experiments.experiment import Job, carry_out, check_same_run, plan
from examples.gta5_to_cityscapes.experiments.runner import run_experiment
from examples.gta5_to_cityscapes.input_files import (
    BLOCK_BYTES,
    WHOLE_BYTES,
    InputFiles,
    read_digests,
    sampled_digest,
    write_digests,
)
from examples.gta5_to_cityscapes.models import build_network
from examples.gta5_to_cityscapes.recipes import Recipe, compose_recipe
from examples.gta5_to_cityscapes.run_dir import Result, RunFolder, RunFolderError, unwatched
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training.loop import train

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def own(streets: Folders, tmp_path: Path) -> Folders:
    """A copy of the streets that a test may change."""
    shutil.copytree(streets.source.parent, tmp_path / "data")
    return Folders(tmp_path / "data" / "gta5", tmp_path / "data" / "cityscapes")


def relabeled(path: Path) -> None:
    """What was road is sidewalk."""
    with Image.open(path) as image:
        ids = np.array(image)
        palette = image.getpalette()
    corrected = Image.fromarray(np.where(ids == 7, 8, ids).astype(np.uint8))
    if palette is not None:
        corrected.putpalette(palette)
    corrected.save(path)


def repainted(path: Path) -> None:
    with Image.open(path) as image:
        pixels = np.array(image)
    Image.fromarray(255 - pixels).save(path)


def trained(recipe: Recipe, folders: Folders, run: RunFolder, stop_after: int | None = None) -> Result:
    data = open_training_data(recipe, folders, known=run.known_inputs())
    return train(recipe, run, data, device=CPU, stop_after=stop_after)


def val(folders: Folders, kind: str, suffix: str) -> Path:
    return folders.target / kind / "val" / "tiny" / f"tiny_000001_000019_{suffix}.png"


CHANGES: dict[str, tuple[Callable[[Folders], object], str]] = {
    "source label map": (
        lambda own: relabeled(own.source / "labels" / "00002.png"),
        r"data\.labeled\.labels: 1 of 6 label maps have changed, such as 00002 \(.*00002\.png\)",
    ),
    "source image": (
        lambda own: repainted(own.source / "images" / "00003.png"),
        r"data\.labeled\.images: 1 of 6 images have changed, such as 00003",
    ),
    "validation label map": (
        lambda own: relabeled(val(own, "gtFine", "gtFine_labelIds")),
        r"data\.validation\.labels: 1 of 3 label maps have changed",
    ),
    "target image": (
        lambda own: repainted(own.target / "leftImg8bit/train/tiny/tiny_000000_000019_leftImg8bit.png"),
        r"data\.target\.images: 1 of 4 images have changed, such as tiny_000000_000019",
    ),
    "image that is gone": (
        lambda own: [(own.source / kind / "00006.png").unlink() for kind in ("images", "labels")],
        r"data\.labeled\.images: 1 of 6 images are gone, such as 00006; data\.labeled\.labels",
    ),
    "new image": (
        lambda own: [
            shutil.copy(own.source / kind / "00001.png", own.source / kind / "00007.png")
            for kind in ("images", "labels")
        ],
        r"data\.labeled\.images: 1 of 7 images are new, such as 00007 \(",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ended", [False, True])
def test_other_content_of_any_file_is_rejected_with_an_example(
    own: Folders, tmp_path: Path, quiet: list[str], change: str, ended: bool
) -> None:
    recipe = compose_recipe("aa", "smoke", overrides=[*quiet, "schedule.max_steps=2"])
    run = RunFolder(tmp_path / "run")
    if ended:
        before = trained(recipe, own, run)
    else:
        with pytest.raises(Stopped):
            trained(recipe, own, run, stop_after=1)
    edit, said = CHANGES[change]
    edit(own)
    with pytest.raises(RunFolderError, match=said) as error:
        trained(recipe, own, run)
    assert "to train on what is there now, choose another --out" in str(error.value)
    assert "or delete that folder" in str(error.value)
    assert (run.result() == before) if ended else (run.result() is None)


def test_times_and_places_do_not_matter(own: Folders, tmp_path: Path, quiet: list[str]) -> None:
    recipe = compose_recipe("aa", "smoke", overrides=[*quiet, "schedule.max_steps=2"])
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Stopped):
        trained(recipe, own, run, stop_after=1)
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, (10**9, 10**9))
    (tmp_path / "data").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copied")
    moved, copied = (Folders(tmp_path / name / "gta5", tmp_path / name / "cityscapes") for name in ("moved", "copied"))
    result = trained(recipe, moved, run)
    assert trained(recipe, copied, run) == result


def test_a_file_changed_under_its_old_time_and_size_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    os.utime(path, (10**9, 10**9))
    inputs = InputFiles({"labeled": {"images": {"a": path}}})
    known = inputs.digests
    path.write_bytes(b"two")
    os.utime(path, (10**9, 10**9))
    again = InputFiles(inputs.sets, known)
    assert again.identity() != inputs.identity()


def test_files_that_are_as_they_were_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    inputs = InputFiles({"labeled": {"images": {"a": path}}})
    monkeypatch.setattr(input_files, "SETTLED_NS", -(10**18))  # as if it had been written long ago
    known = inputs.digests
    write_digests(tmp_path / "kept.jsonl", known)
    read: list[Path] = []
    monkeypatch.setattr(input_files, "sampled_digest", lambda path: read.append(path) or "read")
    assert InputFiles(inputs.sets, read_digests(tmp_path / "kept.jsonl")).identity() == inputs.identity()
    assert not read
    # Without such a margin a file could change once more in the same tick of the clock.
    monkeypatch.setattr(input_files, "SETTLED_NS", 10**18)
    fresh = InputFiles(inputs.sets).digests
    assert InputFiles(inputs.sets, fresh).digests["labeled", "images", "a"].digest == "read"
    assert read == [path, path]


def test_the_sample_of_a_large_file_is_bounded_and_has_its_ends(tmp_path: Path) -> None:
    path, content = tmp_path / "large", bytearray(10 * WHOLE_BYTES)
    path.write_bytes(content)
    before = sampled_digest(path)
    for place, seen in ((0, True), (len(content) - 1, True), (BLOCK_BYTES + 9, False)):
        changed = content.copy()
        changed[place] = 1
        path.write_bytes(changed)
        assert (sampled_digest(path) != before) == seen
    path.write_bytes(content + b"\0")
    assert sampled_digest(path) != before
    small = content[:WHOLE_BYTES]
    path.write_bytes(small)
    before = sampled_digest(path)
    small[BLOCK_BYTES + 9] = 1
    path.write_bytes(small)
    assert sampled_digest(path) != before


def test_start_weights_go_by_their_content(own: Folders, tmp_path: Path, quiet: list[str]) -> None:
    options = {"norm": "batch", "width": 8, "feature_dim": 8}

    def weights(name: str, seed: int) -> str:
        torch.manual_seed(seed)
        torch.save({"network": build_network("small", 19, **options).state_dict()}, tmp_path / name)
        return f"network.weights={tmp_path / name}"

    few = [*quiet, "schedule.max_steps=1"]
    first = compose_recipe("source", "smoke", overrides=[*few, weights("a.pth", 0)])
    run = RunFolder(tmp_path / "run")
    result = trained(first, own, run)
    (tmp_path / "a.pth").rename(tmp_path / "b.pth")
    moved = compose_recipe("source", "smoke", overrides=[*few, f"network.weights={tmp_path / 'b.pth'}"])
    assert trained(moved, own, run) == result
    assert trained(first, own, run) == result  # the file is gone, which a run that has ended does not need
    weights("b.pth", 1)
    with pytest.raises(RunFolderError, match=r"start_weights\.weights: 1 of 1 weights files have changed, .*b\.pth"):
        trained(moved, own, run)


@pytest.mark.parametrize(
    ("recipe", "group", "labeled"), [("it", "style_transfer", True), ("tt", "target_style_transfer", False)]
)
def test_style_transferred_images_go_by_their_content(
    own: Folders, tmp_path: Path, quiet: list[str], recipe: str, group: str, labeled: bool
) -> None:
    folder = tmp_path / "transferred"
    folder.mkdir()
    images = own.source / "images" if labeled else own.target / "leftImg8bit"
    for path in images.rglob("*.png"):
        shutil.copy(path, folder / path.name.replace("_leftImg8bit", ""))

    def asked(place: Path) -> Recipe:
        return compose_recipe(recipe, "smoke", overrides=[*quiet, "schedule.max_steps=2", f"{group}.method={place}"])

    run = RunFolder(tmp_path / "run")
    with pytest.raises(Stopped):
        trained(asked(folder), own, run, stop_after=1)
    folder.rename(tmp_path / "moved")
    changed = min((tmp_path / "moved").iterdir())
    content = changed.read_bytes()
    repainted(changed)
    with pytest.raises(RunFolderError, match=r"transferred: 1 of \d style-transferred images have changed") as error:
        trained(asked(tmp_path / "moved"), own, run)
    assert f"{group}.method" not in str(error.value)
    changed.write_bytes(content)
    trained(asked(tmp_path / "moved"), own, run)


def test_other_runs_of_an_experiment_are_compared_too(own: Folders, tmp_path: Path, quiet: list[str]) -> None:
    first, second = plan(["ssl"], [0], "smoke", tmp_path / "runs", overrides=[*quiet, "schedule.max_steps=1"])
    for job in (first, second):
        carry_out(job, own, CPU)
    shutil.rmtree(first.run.path)  # a second stage that has ended does not need it
    run_experiment([second], own, CPU, unwatched)
    relabeled(own.source / "labels" / "00001.png")
    with pytest.raises(RunFolderError, match=r"data\.labeled\.labels"):
        run_experiment([second], own, CPU, unwatched)
    with pytest.raises(RunFolderError, match=r"data\.labeled\.labels"):
        carry_out(second, own, CPU)


def test_pseudo_labels_that_have_changed_are_written_again(
    own: Folders, tmp_path: Path, quiet: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    overrides = [*quiet, "schedule.max_steps=2", "pseudo_labels.cap=0.1"]
    first, second = plan(["ssl"], [0], "smoke", tmp_path / "runs", overrides=overrides)
    carry_out(first, own, CPU)
    carry_out(second, own, CPU)
    (second.run.path / "result.json").unlink()
    files = sorted(second.run.pseudo_labels.glob("*.png"))
    contents = [file.read_bytes() for file in files]
    Image.new("L", (96, 48), 3).save(files[1])
    carry_out(second, own, CPU)
    assert [file.read_bytes() for file in files] == contents
    assert f"1 files have changed since they were written, such as {files[1].name}" in caplog.text


def test_a_file_that_was_damaged_from_the_start_may_be_replaced(own: Folders, tmp_path: Path, quiet: list[str]) -> None:
    whole, path = (own.source / "images" / "00004.png").read_bytes(), own.source / "images" / "00004.png"
    path.write_bytes(whole[: len(whole) // 2])
    overrides = [*quiet, "runtime.cache=false", "schedule.max_steps=6", "schedule.save_every=1"]
    recipe = compose_recipe("source", "smoke", overrides=overrides)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(DatasetError, match="the same command goes on"):
        trained(recipe, own, run)
    with pytest.raises(DatasetError, match="the same command goes on"):  # it is still what it was
        trained(recipe, own, run)
    path.write_bytes(whole)
    assert trained(recipe, own, run).step == 6
    repainted(path)
    with pytest.raises(RunFolderError, match="1 of 6 images have changed, such as 00004"):
        trained(recipe, own, run)


def test_run_folders_without_digests(
    own: Folders, tmp_path: Path, quiet: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=[*quiet, "schedule.max_steps=2"])
    ended, begun = RunFolder(tmp_path / "ended"), RunFolder(tmp_path / "begun")
    result = trained(recipe, own, ended)
    with pytest.raises(Stopped):
        trained(recipe, own, begun, stop_after=1)
    for run in (ended, begun):
        (run.path / "data.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert trained(recipe, own, ended) == result
    assert "its data.json is gone" in caplog.text
    assert "The run is kept as it is" in caplog.text
    with pytest.raises(RunFolderError, match=r"it is gone.* delete that folder to train again"):
        trained(recipe, own, begun)


def test_without_the_list_of_files_other_content_is_rejected_without_an_example(
    own: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    job = Job(
        compose_recipe("source", "smoke", overrides=[*quiet, "schedule.max_steps=1"]), RunFolder(tmp_path / "run")
    )
    trained(job.recipe, own, job.run)
    job.run.inputs_file.write_text('["labeled", 3]\nnonsense\n', encoding="utf-8")
    check_same_run(job, own)
    relabeled(own.source / "labels" / "00002.png")
    with pytest.raises(RunFolderError, match=r'data\.labeled\.labels: "\w+" -> "\w+"'):
        check_same_run(job, own)


def test_names_that_are_not_unicode_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(b"one")
    inputs = InputFiles({"labeled": {"images": {name: tmp_path / name}}})
    write_digests(tmp_path / "kept.jsonl", inputs.digests)
    assert read_digests(tmp_path / "kept.jsonl") == inputs.digests
    json.dumps(inputs.identity())
