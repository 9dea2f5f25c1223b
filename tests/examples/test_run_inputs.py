"""A run is identified by the content of everything that it reads: not by names, sizes, times or places."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from examples.gta5_to_cityscapes.atomic_io import DamagedFileError
from examples.gta5_to_cityscapes.data import DatasetError
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan
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
    return train(recipe, run, open_training_data(recipe, folders), device=CPU, stop_after=stop_after)


def begun(recipe: Recipe, folders: Folders, out: Path, ended: bool = False) -> RunFolder:
    """A run that was stopped after its first step, or has ended."""
    with nullcontext() if ended else pytest.raises(Stopped):
        trained(recipe, folders, RunFolder(out), None if ended else 1)
    return RunFolder(out)


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
    run = begun(recipe, own, tmp_path / "run", ended)
    before = run.result()
    edit, said = CHANGES[change]
    edit(own)
    with pytest.raises(RunFolderError, match=said):
        trained(recipe, own, run)
    assert run.result() == before


def test_times_and_places_do_not_matter(own: Folders, tmp_path: Path, quiet: list[str]) -> None:
    recipe = compose_recipe("aa", "smoke", overrides=[*quiet, "schedule.max_steps=2"])
    run = begun(recipe, own, tmp_path / "run")
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, (10**9, 10**9))
    (tmp_path / "data").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copied")
    moved, copied = (Folders(tmp_path / name / "gta5", tmp_path / name / "cityscapes") for name in ("moved", "copied"))
    result = trained(recipe, moved, run)
    assert trained(recipe, copied, run) == result


def test_a_process_reads_a_file_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "a.png", []
    whole_open = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: opened.append(path) or whole_open(path, *a, **k))
    for content in (b"one", b"two"):  # of one size and one time of modification
        path.write_bytes(content)
        os.utime(path, (10**9, 10**9))
        opened.clear()
        digests = {InputFiles({"labeled": {"images": {"a": path}}}).identity()["labeled"]["images"] for _ in range(2)}
        assert (len(digests), len(opened)) == (1, 1)
        time.sleep(0.02)  # of the clock that file systems note changes by


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

    run = begun(asked(folder), own, tmp_path / "run")
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
    assert files[1].name in caplog.text


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


def test_a_run_that_has_trained_nothing_takes_other_files(own: Folders, tmp_path: Path, quiet: list[str]) -> None:
    """As ``check`` advises: replace what cannot be read, or move it away."""
    for file, kinds in (("00004.png", ()), ("00005.png", ("images", "labels"))):
        (own.source / "images" / file).write_bytes(b"no image")
        recipe = compose_recipe("source", "smoke", overrides=[*quiet, "runtime.cache=false", "schedule.max_steps=6"])
        run = RunFolder(tmp_path / file)
        with pytest.raises(DatasetError, match="No checkpoint was written"):
            trained(recipe, own, run)
        if kinds:
            for kind in kinds:
                (own.source / kind / file).unlink()
        else:
            shutil.copy(own.source / "images" / "00001.png", own.source / "images" / file)
            shutil.copy(own.source / "labels" / "00001.png", own.source / "labels" / file)
        assert trained(recipe, own, run).step == 6


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(
    ("file", "content", "error", "said"),
    [
        ("data.json", None, RunFolderError, r"data\.json: .* it is gone"),
        ("data_files.jsonl", None, RunFolderError, r'data\.labeled\.labels: "\w+" -> "\w+"'),  # without an example
        ("data_files.jsonl", '["labeled", 3]\nnonsense\n', DamagedFileError, r"data_files\.jsonl"),
    ],
)
def test_digests_that_are_gone_or_damaged_are_reported(
    own: Folders, tmp_path: Path, quiet: list[str], ended: bool, file: str, content: str | None, error: Any, said: str
) -> None:
    recipe = compose_recipe("source", "smoke", overrides=[*quiet, "schedule.max_steps=2"])
    run = begun(recipe, own, tmp_path / "run", ended)
    relabeled(own.source / "labels" / "00002.png")
    (run.path / file).unlink() if content is None else (run.path / file).write_text(content)
    with pytest.raises(error, match=said):
        trained(recipe, own, run)


def test_names_that_are_not_unicode_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(b"one")
    inputs = InputFiles({"labeled": {"images": {name: tmp_path / name}}})
    write_digests(tmp_path / "kept.jsonl", inputs.digests)
    assert read_digests(tmp_path / "kept.jsonl") == inputs.digests
    json.dumps(inputs.identity())
