"""What the ids of label maps mean: train ids, ids without a class, and data without a labeled pixel are rejected."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from examples.gta5_to_cityscapes.cli.app import app
from examples.gta5_to_cityscapes.data import (
    DatasetError,
    SegmentationDataset,
    describe,
    open_dataset,
    require_labels,
)
from examples.gta5_to_cityscapes.data.inspection import MAPS_LOOKED_AT
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder, RunFolderError
from examples.gta5_to_cityscapes.training.loop import train

CPU = torch.device("cpu")
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 17: 5, 21: 8, 23: 10, 24: 11, 26: 13}  # of the classes that the drawn streets have
SYNTHIA_OF = {7: 3, 8: 4, 11: 2, 17: 7, 21: 6, 23: 1, 24: 10, 26: 8}


def rewrite(
    folder: Path, values: dict[int, int], other: int, pattern: str = "*.png", first_row: int | None = None
) -> None:
    """Label maps with other numbers for their classes."""
    for path in folder.glob(pattern):
        table = np.full(256, other, np.uint8)
        table[list(values)] = list(values.values())
        ids = table[np.asarray(Image.open(path))]
        if first_row is not None:
            ids[0] = first_row
        Image.fromarray(ids).save(path)


def gta5(own: Folders, values: dict[int, int] | None, first_row: int | None) -> SegmentationDataset:
    if values:
        rewrite(own.source / "labels", values, 255, first_row=first_row)
    return open_dataset("gta5", own.source)


def synthia(own: Folders, values: dict[int, int] | None, first_row: int | None) -> SegmentationDataset:
    shutil.copytree(own.source / "images", own.source / "RGB")
    labels = shutil.copytree(own.source / "labels", own.source / "GT/LABELS")
    rewrite(labels, values or SYNTHIA_OF, 255 if values else 0, first_row=first_row if values else 22)
    for path in labels.iterdir():
        ids = np.asarray(Image.open(path)).astype(np.uint16)
        assert cv2.imwrite(str(path), np.stack([np.zeros_like(ids), np.zeros_like(ids), ids], -1))
    return open_dataset("synthia", own.source)


def cityscapes(own: Folders, values: dict[int, int] | None, first_row: int | None) -> SegmentationDataset:
    if values:
        rewrite(own.target / "gtFine/train/tiny", values, 255, first_row=first_row)
    return open_dataset("cityscapes", own.target)


@pytest.mark.parametrize(("layout", "first_row"), [(gta5, None), (gta5, 255), (synthia, 255), (cityscapes, 255)])
def test_train_ids_are_rejected(own: Folders, layout: Any, first_row: int | None) -> None:
    with pytest.raises(DatasetError, match=r"source: expected label ids .* look like train ids: 0, "):
        require_labels("source", layout(own, TRAIN_IDS, first_row))


@pytest.mark.parametrize("layout", [gta5, synthia, cityscapes])
def test_label_ids_are_not_taken_for_train_ids(own: Folders, layout: Any) -> None:
    require_labels("source", layout(own, None, 0))


def test_files_of_train_ids_are_named(own: Folders) -> None:
    for path in (own.target / "gtFine/train/tiny").iterdir():
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(DatasetError, match=r"_gtFine_labelTrainIds\.png: expected .*_gtFine_labelIds\.png, found only"):
        open_dataset("cityscapes", own.target)


def test_ids_of_gta5_do_not_include_255(own: Folders) -> None:
    """A row of 255 in label ids is not enough to take them for train ids, but it is reported."""
    rewrite(own.source / "labels", {i: i for i in range(34)}, 0, first_row=255)
    dataset = open_dataset("gta5", own.source)
    require_labels("source", dataset)
    summary = describe(dataset)
    assert summary.unknown_ids == {255: 6 * 96}
    assert summary.unknown_in == {255: own.source / "labels/00001.png"}


@pytest.mark.parametrize("ids", [(7,), (7, 8, 11), (0, 7), (4, 5, 6, 7, 23), (7, 255)])
def test_a_few_label_ids_are_not_taken_for_train_ids(own: Folders, ids: tuple[int, ...]) -> None:
    rewrite(own.source / "labels", dict(zip(TRAIN_IDS, (ids * 8)[:8], strict=True)), ids[0])
    require_labels("source", open_dataset("gta5", own.source))


def test_commands_reject_train_ids_before_they_begin(own: Folders, quiet: list[str], tmp_path: Path) -> None:
    recipe = compose_recipe("source", "smoke", overrides=[*quiet, "schedule.max_steps=1"])
    run = RunFolder(tmp_path / "run")
    train(recipe, run, open_training_data(recipe, own), device=CPU)
    rewrite(own.target / "gtFine/val/tiny", TRAIN_IDS, 255, first_row=255)
    folders = ["--source", str(own.source), "--target", str(own.target)]
    for words in (["check", *folders], ["evaluate", str(run.path), "--target", str(own.target)]):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, DatasetError)
        assert "look like train ids" in str(result.exception)
    with pytest.raises(DatasetError, match="validation images: expected label ids"):
        train(recipe, RunFolder(tmp_path / "other"), open_training_data(recipe, own), device=CPU)
    assert not (tmp_path / "other").exists()
    with pytest.raises(RunFolderError, match="3 of 3 label maps have changed"):  # also of a run that has ended
        train(recipe, run, open_training_data(recipe, own), device=CPU)


@pytest.mark.parametrize(
    ("recipe", "classes", "said"),
    [
        ("aa", "all", "labeled images: expected pixels of .*got none, but the ids 0 in 6"),
        ("target-only", "all", "labeled images: expected pixels of .*got none, but the ids 3 in 4"),
        ("source", "train,bus", r"validation images: .*\(train, bus\), got none.* other --classes"),
    ],
)
def test_training_without_a_labeled_pixel_is_rejected_before_it_starts(
    own: Folders, quiet: list[str], tmp_path: Path, recipe: str, classes: str, said: str
) -> None:
    if classes == "all":
        rewrite(own.source / "labels", {}, 0)
        rewrite(own.target / "gtFine/train/tiny", {}, 3)
    chosen = compose_recipe(recipe, "smoke", overrides=[*quiet, "schedule.max_steps=1"], classes=classes)
    with pytest.raises(DatasetError, match=said):
        train(chosen, RunFolder(tmp_path / "run"), open_training_data(chosen, own), device=CPU)
    assert not (tmp_path / "run").exists()


def test_check_ends_with_an_error_where_no_pixel_has_a_class(own: Folders) -> None:
    rewrite(own.source / "labels", {}, 0)
    rewrite(own.target / "gtFine/val/tiny", {}, 1)
    words = ["check", "--source", str(own.source), "--target", str(own.target)]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, DatasetError)
    assert re.findall("^(.*): expected pixels of at least one class", str(result.exception), re.MULTILINE) == [
        "source",
        "target, validation",
    ]


def test_ids_that_are_not_defined_are_reported_with_a_file(own: Folders) -> None:
    path = own.source / "labels/00004.png"
    rewrite(path.parent, {i: i for i in range(34)}, 0, pattern="00004.png", first_row=77)
    words = ["check", "--source", str(own.source), "--target", str(own.target)]
    shown = CliRunner().invoke(app, words, catch_exceptions=False).output
    assert "{77: 96}" in shown
    assert str(path) in shown


def test_a_few_label_maps_are_read_of_a_large_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    ids = np.full((4, 6), 7, np.uint8)
    for i in range(60):
        Image.new("RGB", (6, 4)).save(tmp_path / f"images/{i:02}.png")
        Image.fromarray(ids).save(tmp_path / f"labels/{i:02}.png")
    dataset = open_dataset("gta5", tmp_path)
    read: list[int] = []
    whole = dataset.raw_id_pixels
    monkeypatch.setattr(dataset, "raw_id_pixels", lambda index: (read.append(index), whole(index))[1])
    require_labels("source", dataset)
    assert len(read) == MAPS_LOOKED_AT
    assert max(read) - min(read) > 30  # from all over the data set
    rewrite(tmp_path / "labels", {}, 0)
    read.clear()
    Image.fromarray(ids).save(tmp_path / "labels/59.png")
    (tmp_path / "labels/58.png").write_bytes(b"not an image")
    require_labels("source", dataset)
    assert read[-1] == 59
    rewrite(tmp_path / "labels", {}, 0, pattern="59.png")
    with pytest.raises(DatasetError, match="got none, but the ids 0 in 59 label maps"):
        require_labels("source", dataset)


def test_a_second_stage_is_rejected_before_the_target_is_labeled(
    own: Folders, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ["--preset", "smoke", "--out", str(tmp_path), "--set", "schedule.max_steps=1"]
    for setting in quiet:
        first += ["--set", setting]
    folders = ["--source", str(own.source), "--target", str(own.target)]
    CliRunner().invoke(app, ["train", "source", *folders, *first], catch_exceptions=False)
    rewrite(own.source / "labels", {}, 0)
    words = ["train", "ssl", *folders, *first, "--from", str(tmp_path / "source/seed0")]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, DatasetError)
    assert "labeled images: expected pixels of at least one class" in str(result.exception)
    assert not (tmp_path / "ssl").exists()
