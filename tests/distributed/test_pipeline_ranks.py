"""The pipeline on several ranks: the same steps as in one process, whatever a step is cut into."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

from examples.gta5_to_cityscapes.data import DatasetError
from examples.gta5_to_cityscapes.data.training_data import (
    Folders,
    StepImages,
    open_target,
    open_training_data,
    write_label_map,
)
from examples.gta5_to_cityscapes.distributed import RankLostError, all_gather_object, all_reduce_sum
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, label_target, plan
from examples.gta5_to_cityscapes.methods.pseudo_labels import PseudoLabelConfig
from examples.gta5_to_cityscapes.models import two_resolutions
from examples.gta5_to_cityscapes.recipes import Recipe, compose_recipe
from examples.gta5_to_cityscapes.run_dir import Result, RunFolder
from examples.gta5_to_cityscapes.signals import Stopped
from examples.gta5_to_cityscapes.training import recipe_network
from examples.gta5_to_cityscapes.training.determinism import draw_apart
from examples.gta5_to_cityscapes.training.loop import train
from examples.gta5_to_cityscapes.training.recipe_network import start_network, trained_network
from examples.gta5_to_cityscapes.training.step import TrainingStep
from tests.distributed.ranks import on_ranks
from tests.examples.drawn_streets import write_streets

CPU = torch.device("cpu")
SMALL = [
    "runtime.tensorboard=false",
    "network.options.width=8",
    "network.options.feature_dim=8",
    "evaluation.previews=2",
    "matching.capacity=2",
    "bank_contrast.capacity=2",
    "region_contrast.capacity=2",
    "data.source_size=[32,64]",
    "data.target_size=[32,64]",
]
PLAIN = [  # no random draws, and no statistics over a batch: what is left depends on the images alone
    *SMALL,
    "network.options.norm=group",
    "augmentation.flip=0",
    "augmentation.scale=[1,1]",
    "augmentation.ratio_jitter=1",
    "augmentation.color_jitter=0",
    "augmentation.grayscale=0",
    "augmentation.blur=0",
    "augmentation.noise=0",
    "optimizer.kind=sgd",
    "optimizer.lr=0.05",
    "matching.weight=0.1",
    "matching.preset=paper",
    "adversarial.weight=0.1",
    "anchors.distance_weight=0",
    "masked_consistency.ratio=0",
    "feature_distance.min_fraction=0.1",
    "prototype_contrast.labels=sinkhorn",
    "teacher.filter=median",
    "style_transfer.probability=1",
    "data.batch=5",
]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("streets_of_ranks")
    write_streets(root)
    return Folders(root / "gta5", root / "cityscapes")


@pytest.fixture(scope="module")
def begun(streets: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks of each kind that know roads from skies, so that there are regions to match."""
    out = tmp_path_factory.mktemp("begun")
    starts = {
        "group": named("source"),
        "batch": named("source", "network.options.norm=batch"),
        "auxiliary": named("asn"),
        "resolutions": named("hrda"),
    }
    for kind, recipe in starts.items():
        schedule = recipe.schedule.model_copy(update={"max_steps": 30, "decay_steps": 30})
        recipe = recipe.model_copy(update={"schedule": schedule})
        train(recipe, RunFolder(out / kind), open_training_data(recipe, streets), device=CPU)
    return {kind: RunFolder(out / kind).checkpoint for kind in starts} | {"labels": sparse_labels(streets, out)}


def sparse_labels(folders: Folders, out: Path) -> Path:
    """Pseudo-labels of which there are many in one image, few in another and none in the rest."""
    target = open_target(named("crst"), folders)
    for place, name in enumerate(target.names):
        labels = torch.full((32, 64), 255, dtype=torch.uint8)
        labels[: (27, 3, 0, 0)[place], : (64, 5, 0, 0)[place]] = 2
        write_label_map(labels, out / "labels" / f"{name}.png")
    return out / "labels"


def steps_of(rank: int, recipe: Recipe, folders: Folders, start: dict[str, Path]) -> dict[str, Any]:
    """Losses of each step, then everything that training has moved; every rank must hold the same bits."""
    data = open_training_data(recipe, folders, start["labels"] if "pseudo_labels" in recipe.methods else None)
    options = recipe.network.options
    kind = next((each for each in ("auxiliary", "resolutions") if each in options), options["norm"])
    network = start_network(recipe, CPU, start[kind])
    take_step = TrainingStep(recipe, network, CPU)
    take_step.network.train()
    take_step.prepare(data.labeled)
    draw_apart(recipe.seed)
    images = StepImages(recipe, data, CPU, {"labeled": 0, "target": 0}, take_step.sampler())
    history = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(two_resolutions, "_drawn", lambda most: 0)  # each rank and part draws its own crop
        for step in range(STEPS):
            losses = take_step(images.draw(step))
            history.append(dict(zip(losses, all_reduce_sum(torch.stack([*losses.values()])).tolist(), strict=True)))
    state = flat({name: value for name, value in take_step.state().items() if name != "optimizers"})
    for other in all_gather_object(state):
        assert other.keys() == state.keys()
        assert all(torch.equal(other[name], value) for name, value in state.items())
    return {"losses": history, "state": state, "position": images.positions}


def flat(state: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            found[prefix + name] = value
    return found


def assert_close(result: dict[str, Any], expected: dict[str, Any]) -> None:
    """To 1e-6; but the distance of category anchors, a mean over the classes that a part shows, has no weight here.

    And a confidence at the edge of a bin may be counted in the one beside it: medians are compared, not counts.
    """
    assert result["position"] == expected["position"]
    for ours, theirs in zip(result["losses"], expected["losses"], strict=True):
        compared = [name for name in theirs if not name.startswith("anchor_distance")]
        assert [ours[name] for name in compared] == pytest.approx(
            [theirs[name] for name in compared], rel=1e-5, abs=1e-6
        )
    assert result["state"].keys() == expected["state"].keys()
    for name, value in expected["state"].items():
        if name.startswith("teacher_medians.") and name != "teacher_medians.thresholds":
            continue
        torch.testing.assert_close(
            result["state"][name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


RUNS = [*PLAIN, "optimizer.lr=0.02", "evaluation.batch=1", "schedule.max_steps=6", "schedule.evaluate_every=6"]
# With the losses that must not be 0.
RECIPES = {
    "source": ("segmentation",),
    "aa+it+sim": ("segmentation", "stuff"),
    "asn+cw": ("segmentation",),
    "advent": ("segmentation",),
    "maxsq": ("segmentation",),
    "rcs+mask": ("segmentation", "masked"),
    "fada": ("segmentation",),
    "cag": ("segmentation",),
    "crst": ("segmentation",),
    "dcon+pcon": ("segmentation", "distribution_contrast_source", "prototype_contrast_source"),
    "bcon+rcon": ("bank_contrast", "stuff_contrast"),
    "fd+ffd": ("feature_distance", "foundation_distance_source", "foundation_distance_target"),
    "hrda+mask": ("segmentation", "masked"),
}
STEPS = 3


def named(name: str, *overrides: str) -> Recipe:
    return compose_recipe(name, "smoke", overrides=[*PLAIN, *overrides])


def all_steps(rank: int, folders: Folders, start: dict[str, Path], parts: int = 1) -> dict[str, dict[str, Any]]:
    """Every recipe, by name; a process takes long to begin."""
    cut = f"runtime.accumulate_grad_batches={parts}"
    return {name: steps_of(rank, named(name, cut), folders, start) for name in RECIPES}


@pytest.fixture(scope="module")
def undisturbed(streets: Folders, begun: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """One process, uncut steps."""
    return all_steps(0, streets, begun)


@pytest.mark.parametrize(("ranks", "parts"), [(2, 2), (4, 1)])
def test_ranks_take_the_steps_of_one_process(
    ranks: int,
    parts: int,
    streets: Folders,
    tmp_path: Path,
    begun: dict[str, Path],
    undisturbed: dict[str, dict[str, Any]],
) -> None:
    for name, expected in undisturbed.items():
        assert all(any(losses[each] > 0 for losses in expected["losses"]) for each in RECIPES[name]), name
    for result in on_ranks(ranks, all_steps, tmp_path, streets, begun, parts):
        for name, found in result.items():
            assert_close(found, undisturbed[name])


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_in_parts_is_the_step_in_one(
    name: str, streets: Folders, begun: dict[str, Path], undisturbed: dict[str, dict[str, Any]]
) -> None:
    cut = steps_of(0, named(name, "runtime.accumulate_grad_batches=3"), streets, begun)
    assert_close(cut, undisturbed[name])


class CPUSyncBatchNorm(torch.nn.SyncBatchNorm):
    """``SyncBatchNorm`` in plain operations: torch has none for a CPU, and the pipeline's own code is to be tested."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            kept = (self.running_mean, self.running_var, self.weight, self.bias)
            return torch.nn.functional.batch_norm(x, *kept, eps=self.eps)
        channels = (1, -1, 1, 1)
        pixels = all_reduce_sum(torch.tensor(float(x.numel() // x.shape[1])))
        mean = over_pixels_and_ranks(x) / pixels
        centered = x.float() - mean.view(channels)
        variance = over_pixels_and_ranks(centered.square()) / pixels
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            for kept, new in ((self.running_mean, mean), (self.running_var, variance * (pixels / (pixels - 1)))):
                kept.lerp_(new, self.momentum)
        normal = centered * torch.rsqrt(variance + self.eps).view(channels)
        return (normal * self.weight.view(channels) + self.bias.view(channels)).to(x.dtype)


def over_pixels_and_ranks(x: Tensor) -> Tensor:
    return SumOfRanks.apply(x.float().sum((0, 2, 3)))  # type: ignore[no-any-return, no-untyped-call]


class SumOfRanks(torch.autograd.Function):
    """Every rank adds to the sum and every rank uses it, so its gradient is a sum over ranks too."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return all_reduce_sum(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.contiguous())


def convert_for_cpu(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    for module in network.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = CPUSyncBatchNorm
    return network


def batch_normalized(rank: int, folders: Folders, start: dict[str, Path], shared: bool) -> dict[str, Any]:
    recipe_network.convert_sync_batchnorm = convert_for_cpu  # type: ignore[assignment]
    options = ["network.options.norm=batch", f"network.sync_bn={str(shared).lower()}"]
    return steps_of(rank, named("aa+sim", *options), folders, start)


def test_shared_statistics_are_those_of_the_whole_step(
    streets: Folders, tmp_path: Path, begun: dict[str, Path]
) -> None:
    expected = batch_normalized(0, streets, begun, True)
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    own.mkdir()
    for result in on_ranks(2, batch_normalized, shared, streets, begun, True):
        assert_close(result, expected)
    # Each rank by its own images: another result, though the same on both (which steps_of has looked at).
    result, _ = on_ranks(2, batch_normalized, own, streets, begun, False)
    assert result["losses"][0]["segmentation"] != pytest.approx(expected["losses"][0]["segmentation"], rel=1e-3)


def whole_runs(rank: int, folders: Folders, out: Path, names: tuple[str, ...]) -> list[Result]:
    """Jobs to the end, first steps and labels included."""
    done = []
    for name in names:
        for job in plan([name], [0], "smoke", out, overrides=RUNS):
            done.append(carry_out(job, folders, CPU))
    return done


def test_whole_runs_leave_the_same_folder(streets: Folders, tmp_path: Path) -> None:
    """Evaluation, thresholds, labels and checkpoints; three validation images do not go into two ranks evenly."""
    names = ("aa+it+sim+ssl", "crst", "iast", "aa+it+sym+fused")
    alone, together, store = (tmp_path / name for name in ("alone", "together", "store"))
    store.mkdir()
    expected = whole_runs(0, streets, alone, names)
    results = on_ranks(2, whole_runs, store, streets, together, names)
    assert results[0] == results[1]
    for result, other in zip(results[0], expected, strict=True):
        assert result.miou == pytest.approx(other.miou, abs=2e-3), result.recipe
        assert result.entropy == pytest.approx(other.entropy, abs=1e-3)
    found, wanted = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (together, alone)
    )
    assert found == wanted
    for name in ("aa+it+sim+ssl", "crst"):
        manifests = [
            json.loads((out / name / "seed0/pseudo_labels/manifest.json").read_text()) for out in (alone, together)
        ]
        for key in ("thresholds", "kept"):
            assert manifests[1][key] == pytest.approx(manifests[0][key], abs=0.02), (name, key)


def labeled(rank: int, folders: Folders, checkpoint: Path, out: Path, rule: str) -> None:
    recipe, network, _ = trained_network(checkpoint, CPU)
    for _ in range(2):  # the second time it only looks
        label_target(
            [(recipe, network)],
            recipe,
            PseudoLabelConfig(rule=rule),  # type: ignore[arg-type]
            RunFolder(out),
            folders,
            CPU,
            weights_sha256="weights",
            tick=lambda done, total: None,
        )


@pytest.mark.parametrize("rule", ["median", "portion"])
def test_labels_of_one_network_are_the_same_bytes(streets: Folders, tmp_path: Path, rule: str) -> None:
    whole_runs(0, streets, tmp_path / "run", ("source",))
    checkpoint = tmp_path / "run/source/seed0/checkpoints/last.pt"
    alone, together, store = (tmp_path / name for name in ("alone", "together", "store"))
    store.mkdir()
    labeled(0, streets, checkpoint, alone, rule)
    on_ranks(2, labeled, store, streets, checkpoint, together, rule)
    files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert sum(path.suffix == ".png" for path in files) == 4
    assert files == sorted(path.relative_to(together) for path in together.rglob("*") if path.is_file())
    for path in files:
        assert (alone / path).read_bytes() == (together / path).read_bytes(), path


FEW = [*SMALL, "data.batch=4", "schedule.save_every=2", "schedule.max_steps=6", "schedule.evaluate_every=6"]


def stopped_and_resumed(rank: int, folders: Folders, out: Path) -> Result:
    """Each rank draws its own crops; a run that was stopped and went on has drawn the same ones."""
    recipe = compose_recipe("aa+sim+mask", "smoke", overrides=FEW)
    data = open_training_data(recipe, folders)
    with pytest.raises(Stopped):
        # Only one rank is asked to stop, and all of them do.
        train(recipe, RunFolder(out / "stopped"), data, device=CPU, stop_after=3 if rank == 1 else None)
    resumed = train(recipe, RunFolder(out / "stopped"), data, device=CPU)
    whole = train(recipe, RunFolder(out / "whole"), data, device=CPU)
    assert resumed.weights_sha256 == whole.weights_sha256
    return resumed


def test_a_stopped_run_of_two_ranks_goes_on_as_it_was(
    streets: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = on_ranks(2, stopped_and_resumed, tmp_path, streets, tmp_path)
    assert first == second
    # And one process can go on where two stopped; it says that its draws are others.
    recipe = compose_recipe("aa+sim+mask", "smoke", overrides=FEW)
    run = RunFolder(tmp_path / "whole")
    (run.path / "result.json").unlink()
    run.checkpoints.earlier[0].replace(run.checkpoint)
    with caplog.at_level(logging.WARNING):
        assert train(recipe, run, open_training_data(recipe, streets), device=CPU).step == 6
    assert "saved by 2 processes, going on with 1" in caplog.text


def lose_a_rank(rank: int, folders: Folders, out: Path, how: str) -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher of the test sends it, perhaps before a word is written
    recipe = compose_recipe(
        "aa+sim", "smoke", overrides=[*SMALL, "data.batch=4", "schedule.max_steps=2000", "schedule.decay_steps=2000"]
    )
    data = open_training_data(recipe, folders)
    if rank == 1:
        take = data.labeled.__class__.__getitem__
        taken = [0]

        def lost(self: Any, index: int) -> Any:
            taken[0] += 1
            if taken[0] > 8:
                if how == "dies":
                    os._exit(9)
                raise DatasetError("street.png: expected a complete image")
            return take(self, index)

        data.labeled.__class__.__getitem__ = lost  # type: ignore[method-assign]
    started = time.monotonic()
    try:
        train(recipe, RunFolder(out / how), data, device=CPU)
    except (RankLostError, DatasetError) as error:
        (out / f"{how}{rank}.txt").write_text(f"{type(error).__name__} {time.monotonic() - started} {error}")
        os._exit(3)
    return "trained to the end"


@pytest.mark.parametrize("how", ["dies", "cannot read"])
def test_a_rank_that_is_lost_stops_the_others_with_a_message(how: str, streets: Folders, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with pytest.raises(ProcessExitedException):
        on_ranks(2, lose_a_rank, store, streets, tmp_path, how)
    kind, seconds, text = (tmp_path / f"{how}0.txt").read_text().split(maxsplit=2)
    assert kind == "RankLostError"
    assert float(seconds) < 60
    assert "another process of this run has ended" in text
    assert (tmp_path / how / "recipe.json").is_file()
    if how == "cannot read":
        assert "street.png" in (tmp_path / f"{how}1.txt").read_text()
