"""Pseudo-label files against a plain in-memory computation of the reference implementation's rule."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from examples.gta5_to_cityscapes.atomic_io import write_json
from examples.gta5_to_cityscapes.data import DatasetError, SegmentationDataset
from examples.gta5_to_cityscapes.data.training_data import (
    Folders,
    PseudoLabeled,
    files_of,
    open_target,
    open_training_data,
)
from examples.gta5_to_cityscapes.experiments.experiment import Job, carry_out, check_same_run, plan
from examples.gta5_to_cityscapes.input_files import InputFiles
from examples.gta5_to_cityscapes.methods.pseudo_labels import PseudoLabelConfig
from examples.gta5_to_cityscapes.models import SegmentationNetwork
from examples.gta5_to_cityscapes.recipes import compose_recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder, RunFolderError, Tick, silent
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.pseudo_labeling import Kept, View, write_pseudo_labels
from examples.gta5_to_cityscapes.training.recipe_network import start_network
from stuffinstance import CITYSCAPES, LabelSpace

CPU = torch.device("cpu")


def opinionated_network(quiet: list[str]) -> SegmentationNetwork:
    """Random weights, but a head that says different things in different places."""
    network = start_network(compose_recipe("aa", "smoke", overrides=quiet), CPU)
    torch.manual_seed(3)
    with torch.no_grad():
        for branch in network.head.branches:
            branch.weight.normal_(0, 1.0)
    return network.eval()


def probabilities_of(network: SegmentationNetwork, image: Tensor) -> Tensor:
    with torch.no_grad():
        logits = network(image[None].float() / 255).logits
    return F.interpolate(logits.softmax(1), image.shape[-2:], mode="bilinear", align_corners=True)[0]


def label(
    network: SegmentationNetwork,
    dataset: SegmentationDataset,
    folder: Path,
    settings: PseudoLabelConfig,
    *,
    sha256: str = "abc",
    space: LabelSpace = CITYSCAPES,
    batch: int = 1,
    tick: Tick = silent,
) -> Kept:
    """Label with one network, which sees the images as they are."""
    belongs_to = {"weights_sha256": sha256, **InputFiles({"target": files_of(dataset)}).identity()}
    views = [View(network, dataset)]
    return write_pseudo_labels(views, folder, settings, space, CPU, belongs_to=belongs_to, batch=batch, tick=tick)


def test_files_equal_the_rule_worked_out_in_memory(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    network = opinionated_network(quiet).train()
    dataset = open_target(compose_recipe("aa", "smoke", overrides=quiet), streets)
    settings = PseudoLabelConfig(quantile=0.5, cap=0.6)
    kept = label(network, dataset, tmp_path, settings, batch=3)
    assert network.training
    network.eval()
    maps = [probabilities_of(network, dataset[i].image) for i in range(len(dataset))]
    confidence, predicted = zip(*(p.max(0) for p in maps), strict=True)
    everything, classes = torch.stack(confidence).flatten(), torch.stack(predicted).flatten()
    written = {}
    for k, name in enumerate(CITYSCAPES.names):
        mine = everything[classes == k].sort().values
        exact = 0.0 if len(mine) == 0 else min(float(mine[round(len(mine) / 2)]), 0.6)
        assert kept.thresholds[name] == pytest.approx(exact, abs=2e-3)
        assert kept.predicted_pixels[name] == len(mine)
    assert len({name for name, count in kept.predicted_pixels.items() if count}) > 3
    limits = torch.tensor([kept.thresholds[name] for name in CITYSCAPES.names], dtype=torch.float64)
    for i, name in enumerate(dataset.names):
        with Image.open(tmp_path / f"{name}.png") as file:
            assert file.mode == "L"  # one byte per pixel
            written[name] = torch.from_numpy(np.array(file)).long()
        expected = torch.where(confidence[i].double() >= limits[predicted[i]], predicted[i], 255)
        # A confidence may sit within float rounding of its threshold; nothing else may differ.
        differing = written[name] != expected
        assert differing.float().mean() < 1e-3
        assert not (differing & ((confidence[i].double() - limits[predicted[i]]).abs() > 1e-5)).any()
    labels = torch.stack(list(written.values()))
    assert kept.kept_total == pytest.approx(float((labels != 255).double().mean()))
    for k, name in enumerate(CITYSCAPES.names):
        share = int((labels == k).sum()) / max(1, kept.predicted_pixels[name])
        assert kept.kept[name] == pytest.approx(share, abs=1e-6)


def test_labels_are_written_again_where_anything_has_changed(
    streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    network = opinionated_network(quiet)
    dataset = open_target(compose_recipe("aa", "smoke", overrides=quiet), streets)
    other = copy.copy(dataset)
    other.names = [*dataset.names[:-1], "another"]
    other.files = [*dataset.files[:-1], dataclasses.replace(dataset.files[-1], name="another")]
    space = LabelSpace([f"{name}!" for name in CITYSCAPES.names], stuff=CITYSCAPES.stuff, things=CITYSCAPES.things)
    files = [tmp_path / f"{name}.png" for name in dataset.names]
    whole = label(network, dataset, tmp_path, PseudoLabelConfig(), batch=2)
    contents = [file.read_bytes() for file in files]

    def written_again(dataset: SegmentationDataset = dataset, cap: float = 0.9, **named: Any) -> bool:
        os.utime(files[0], (0, 0))
        label(network, dataset, tmp_path, PseudoLabelConfig(cap=cap), batch=2, **named)
        return files[0].stat().st_mtime > 0

    assert not written_again()
    assert written_again(sha256="second")
    assert written_again(sha256="second", cap=0.5)
    assert written_again(other)
    assert written_again(other, space=space)
    for change in (files[1].unlink, lambda: files[2].write_bytes(contents[1]), (tmp_path / "manifest.json").unlink):
        written_again()  # as it was
        change()
        assert written_again()
        assert [file.read_bytes() for file in files] == contents

    class PowerCut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        if done == 6:  # of 8: the second pass has written two of four
            raise PowerCut

    with pytest.raises(PowerCut):
        label(network, dataset, tmp_path, PseudoLabelConfig(), sha256="cut", batch=2, tick=cut)
    assert label(network, dataset, tmp_path, PseudoLabelConfig(), batch=2) == whole
    assert [file.read_bytes() for file in files] == contents
    assert not list(tmp_path.glob(".*"))


def test_missing_and_misfit_label_maps_are_named(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    dataset = open_target(compose_recipe("aa", "smoke", overrides=quiet), streets)
    with pytest.raises(FileNotFoundError, match="4 are missing"):
        PseudoLabeled(dataset, tmp_path)
    for name in dataset.names:
        Image.new("L", (5, 4)).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"size \(48, 96\) \(H, W\), got \(4, 5\)"):
        PseudoLabeled(dataset, tmp_path)[0]
    (tmp_path / f"{dataset.names[1]}.png").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"copy it again .* delete this file"):
        PseudoLabeled(dataset, tmp_path)[1]


def test_the_second_stage_trains_on_the_labels_of_the_first(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    few = [*quiet, "schedule.max_steps=2"]
    first = compose_recipe("source", "smoke", overrides=few)
    first_run = RunFolder(tmp_path / "first")
    train(first, first_run, open_training_data(first, streets), device=CPU)
    second = compose_recipe("ssl", "smoke", overrides=few)
    job = Job(second, RunFolder(tmp_path / "second"), (first_run,))
    carry_out(job, streets, CPU)
    data = open_training_data(second, streets, job.run.pseudo_labels)
    assert data.target is not None
    sample = data.target[0]
    with Image.open(job.run.pseudo_labels / f"{sample.name}.png") as file:
        assert torch.equal(sample.labels, torch.from_numpy(np.array(file)))
    assert (sample.labels != 255).any()
    lines = [json.loads(line) for line in job.run.metrics.read_text().splitlines()]
    assert all(line["loss/pseudo"] > 0 for line in lines if line["kind"] == "train")
    # A first step that has changed since makes another second stage.
    identity = json.loads((job.run.path / "data.json").read_text())
    assert len(identity["first_stage_weights"]) == 64


def test_a_finished_second_stage_needs_no_first_stage(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    first, second = plan(["ssl"], [0], "smoke", tmp_path, overrides=[*quiet, "schedule.max_steps=1"])
    carry_out(first, streets, CPU)
    result = carry_out(second, streets, CPU)
    # Training the same once more ends in the same weights, whatever the clock said.
    before = first.run.result()
    shutil.rmtree(first.run.path)
    check_same_run(second, streets)
    assert carry_out(second, streets, CPU) == result
    carry_out(first, streets, CPU)
    again = first.run.result()
    assert before is not None
    assert again is not None
    assert before.weights_sha256 == again.weights_sha256
    check_same_run(second, streets)
    write_json(first.run.path / "result.json", {**vars(again), "weights_sha256": "of other weights"})
    with pytest.raises(RunFolderError, match=r"data\.first_stage_weights"):
        check_same_run(second, streets)
