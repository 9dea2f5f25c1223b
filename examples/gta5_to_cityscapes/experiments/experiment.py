"""Runs of an experiment: planning them, their order, and training one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..atomic_io import write_json
from ..checkpoint import CheckpointError, digest_of_weights
from ..config import LayoutConfig
from ..data import SegmentationDataset
from ..data.loader import Samples
from ..data.style_transfer import TransferredImages, TransferredTowards
from ..data.training_data import (
    Folders,
    TrainingData,
    as_seen,
    files_of,
    open_labeled,
    open_target,
    open_training_data,
    open_validation,
)
from ..distributed import is_rank_zero, on_rank_zero
from ..input_files import InputFiles
from ..methods import registered_methods
from ..methods.pseudo_labels import PseudoLabelConfig
from ..methods.style_transfer import TargetStyleTransferConfig
from ..metrics_log import Metrics, peak_memory_bytes
from ..models import SegmentationNetwork
from ..recipes import Recipe, canonical, compose_recipe, depends_on
from ..run_dir import Event, ExperimentRecord, Result, RunFolder, Tick, Watch, unwatched
from ..training.evaluation import evaluate_recipe
from ..training.loop import train
from ..training.pseudo_labeling import Kept, View, write_pseudo_labels
from ..training.recipe_network import check_network, start_network, trained_network


@dataclass(frozen=True)
class Job:
    """One run, and the runs whose checkpoints it needs, by the name of their recipes."""

    recipe: Recipe
    run: RunFolder
    needs: tuple[RunFolder, ...] = ()
    variant: str = ""  # distinguishes runs of one recipe and seed with other settings
    overrides: tuple[str, ...] = ()  # of the recipe's preset
    class_file: str | None = None

    @property
    def name(self) -> str:
        """As events name it."""
        return f"{self.variant} {self.recipe.title}".lstrip()

    @property
    def cost(self) -> float:
        """Work of a run relative to training on labeled images alone; only for the time that is left."""
        recipe = self.recipe
        if recipe.fused_of:
            return 0.1
        second_pass = 1.2 if recipe.needs_target else 0.0
        known = registered_methods()
        return 1.0 + second_pass + sum(known[group].cost for group in recipe.methods)


def plan(
    names: Sequence[str],
    seeds: Sequence[int],
    preset: str,
    experiment: Path,
    *,
    layouts: LayoutConfig | None = None,
    classes: str = "all",
    class_file: str | None = None,
    overrides: Sequence[str] = (),
) -> list[Job]:
    """Every recipe with every seed, and the runs that they depend on.

    Their order keeps a pair of workers busy: what others wait for goes first.

    Args:
        names: Names of recipes.
        seeds: Seeds of each.
        preset: As in :func:`~..recipes.compose_recipe`, like all that follows ``experiment``.
        experiment: The folder of all their runs, ``<recipe>/seed<k>/``.
        layouts: How the data sets are laid out.
        classes: What is scored.
        class_file: What there is to score.
        overrides: Settings of the preset.

    Raises:
        RecipeError: If a recipe cannot be.
    """
    wanted = list(dict.fromkeys(each for name in names for each in (*_needed(name), canonical(name))))
    depth = {name: max(_height(other, name) for other in wanted) for name in wanted}
    of_data: dict[str, Any] = {"layouts": layouts, "classes": classes, "class_file": class_file}
    recipes = [
        compose_recipe(name, preset, seed=seed, overrides=overrides, **of_data) for seed in seeds for name in wanted
    ]
    jobs = []
    for recipe in sorted(recipes, key=lambda recipe: (-depth[recipe.name], not depends_on(recipe.name).names)):
        check_network(recipe)
        run, *needs = (
            RunFolder(experiment / name / f"seed{recipe.seed}")
            for name in (recipe.name, *depends_on(recipe.name).names)
        )
        jobs.append(Job(recipe, run, tuple(needs), overrides=tuple(overrides), class_file=class_file))
    return jobs


def _needed(name: str) -> list[str]:
    """Everything that a recipe depends on, the deepest first."""
    return [each for direct in depends_on(name).names for each in (*_needed(direct), direct)]


def _height(name: str, above: str) -> int:
    """How many runs lie between ``name`` and the run ``above`` it depends on; 0 where it does not depend on it."""
    below = depends_on(name).names
    return 1 if above in below else max((1 + h for each in below if (h := _height(each, above))), default=0)


def plan_paper_experiment(record: ExperimentRecord, out: Path) -> list[Job]:
    """Every row with every seed, and what they depend on: all rows of a seed before the next seed.

    So an experiment that is looked at early compares whole rows. Rows that share their settings share a folder, and
    the runs that several of them depend on.

    Args:
        record: What is asked for.
        out: The experiment's folder; runs go to ``out/<recipe>/seed<k>/``, or ``out/<variant>/<recipe>/seed<k>/`` where
            the experiment varies a setting.
    """
    paper = record.paper
    settings = paper.settings(record.preset, record.settings)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for variant in record.variants:
        groups.setdefault((variant.folder, variant.overrides), []).append(variant.recipe)
    return [
        replace(job, variant=folder)
        for seed in record.seeds
        for (folder, own), recipes in groups.items()
        for job in plan(
            recipes,
            [seed],
            record.preset,
            out / folder,
            layouts=paper.layouts,
            classes=paper.classes,
            overrides=[*settings, *own],
        )
    ]


def carry_out(
    job: Job,
    folders: Folders,
    device: torch.device,
    watch: Watch = unwatched,
    checkpoint: Path | None = None,
) -> Result:
    """Train one job: from another run's weights, or with labels that others give the target, where its recipe says so.

    Every rank of a process group calls this alike.

    Args:
        job: What to run.
        folders: The data.
        device: Where to compute.
        watch: Called with each event.
        checkpoint: Replaces the one run that it needs.
    """
    recipe, run = job.recipe, job.run
    watch = _named(job, watch) if is_rank_zero() else unwatched
    if recipe.network.weights is not None and not run.recipe_file.is_file():
        start_network(recipe, torch.device("cpu"))  # weights that do not fit leave no folder of a run behind
    if not (recipe.start or recipe.labeled_by or recipe.fused_of):
        return train(recipe, run, _opened(job, folders), device=device, watch=watch)
    finished = on_rank_zero(run.result)
    if finished is not None and (checkpoint is None or not checkpoint.is_file()):
        # What it depends on need not be there any more.
        on_rank_zero(lambda: run.check(recipe, _opened(job, folders).inputs))
        return finished
    checkpoints = _checkpoints(job, checkpoint)
    trained = _trained(recipe, checkpoints, device)
    digest = "+".join(digest_of_weights(network.state_dict()) for _, network in trained)
    if finished is not None:
        on_rank_zero(lambda: run.check(recipe, _opened(job, folders, digest).inputs))
        return finished

    def claim() -> None:
        data = _opened(job, folders, digest)
        data.require_labels()
        run.claim(recipe, data.inputs)

    on_rank_zero(claim)  # before the first file is written, not after: a folder may hold another run
    if recipe.fused_of:
        return _fuse(job, folders, device, watch, trained)
    pseudo_labels = recipe.config(PseudoLabelConfig)
    if pseudo_labels:
        label_target(
            trained,
            recipe,
            pseudo_labels,
            run,
            folders,
            device,
            weights_sha256=digest,
            tick=lambda done, total: watch(Event(job.name, 0, recipe.schedule.max_steps, f"labels {done}/{total}")),
        )
    trained.clear()  # training needs their memory
    labels = run.pseudo_labels if pseudo_labels else None
    data = _opened(job, folders, digest, labels)
    return train(recipe, run, data, device=device, watch=watch, start=checkpoints[0] if recipe.start else None)


def _opened(
    job: Job, folders: Folders, first_stage_weights: str | None = None, pseudo_labels: Path | None = None
) -> TrainingData:
    """What the run reads."""
    return open_training_data(job.recipe, folders, pseudo_labels, first_stage_weights)


def _trained(
    recipe: Recipe, checkpoints: Sequence[Path], device: torch.device
) -> list[tuple[Recipe, SegmentationNetwork]]:
    """The networks that a run depends on, each with its recipe."""
    trained = []
    for file in checkpoints:
        other, network, _ = trained_network(file, device)
        _require_same_network(recipe, other, file)
        trained.append((other, network))
    return trained


def _named(job: Job, watch: Watch) -> Watch:
    """Training names its events by the recipe alone, which several jobs of an experiment may share."""
    return lambda event: watch(event._replace(task=job.name))


def _checkpoints(job: Job, checkpoint: Path | None) -> list[Path]:
    needed = depends_on(job.recipe.name).names
    if checkpoint is None:
        return [run.checkpoint for run in job.needs]
    if len(needed) > 1:
        raise ValueError(f"{job.name}: depends on {' and '.join(needed)}, one checkpoint cannot replace both.")
    return [checkpoint]


def _require_same_network(recipe: Recipe, other: Recipe, file: Path) -> None:
    """A run takes classes from those that it depends on, and one that begins with their weights the network too."""
    if other.space.names != recipe.space.names:
        raise CheckpointError(
            f"checkpoint {file}: expected a network of the classes {recipe.space.name} that {recipe.name} is to have, "
            f"got one of {other.space.name} (recipe {other.name}). Give a checkpoint of the same classes."
        )
    asked, found = ({"name": one.network.name, **one.network.options} for one in (recipe, other))
    if recipe.start and asked != found:
        raise CheckpointError(
            f"checkpoint {file}: expected weights of the network that {recipe.name} begins with ({asked}), got those "
            f"of {other.name} ({found}). Give a checkpoint of that network, or ask for its network with --set."
        )


def label_target(
    networks: Sequence[tuple[Recipe, SegmentationNetwork]],
    recipe: Recipe,
    settings: PseudoLabelConfig,
    run: RunFolder,
    folders: Folders,
    device: torch.device,
    *,
    weights_sha256: str,
    tick: Tick,
) -> Kept:
    """Write the target's pseudo-labels and ``thresholds.json`` into ``run``.

    Args:
        networks: The networks that label, each with its recipe, which says how it sees the target.
        recipe: Of the run that is labeled for: size of the images, and label space.
        settings: Which labels are kept.
        run: Where they are written.
        folders: The data; the source is only read for a network that sees transferred target images.
        device: Where the networks are.
        weights_sha256: Digest of their weights.
        tick: Called with (images done, images in all).
    """
    target = open_target(recipe, folders)
    views = [View(network, seen_by(each, target, folders)) for each, network in networks]

    def identity() -> dict[str, Any]:
        """The images as each network sees them, and the source's for one that transfers them to its style."""
        sets = {"target": files_of(target)}
        for place, ((each, _), view) in enumerate(zip(networks, views, strict=True)):
            if isinstance(view.images, TransferredImages):
                sets[f"target of {place}"] = files_of(target, view.images)
            elif isinstance(view.images, TransferredTowards):
                sets[f"source of {place}"] = {"images": files_of(open_labeled(each, folders))["images"]}
        return InputFiles(sets).identity()

    kept = write_pseudo_labels(
        views,
        run.pseudo_labels,
        settings,
        recipe.label_space,
        device,
        belongs_to={"weights_sha256": weights_sha256, **on_rank_zero(identity)},
        batch=recipe.evaluation.batch,
        tick=tick,
    )
    on_rank_zero(lambda: write_json(run.thresholds, kept.as_json()))
    return kept


def seen_by(recipe: Recipe, images: SegmentationDataset, folders: Folders) -> Samples:
    """Images of the target as the network of that recipe sees them."""
    transfer = recipe.config(TargetStyleTransferConfig)
    computed_here = transfer is not None and transfer.in_step
    return as_seen(recipe, images, open_labeled(recipe, folders) if computed_here else None)


def _fuse(
    job: Job,
    folders: Folders,
    device: torch.device,
    watch: Watch,
    networks: Sequence[tuple[Recipe, SegmentationNetwork]],
) -> Result:
    """Score the mean of several networks' probabilities; there is nothing to train and no checkpoint."""
    recipe, started = job.recipe, time.monotonic()
    validation = open_validation(recipe, folders)
    images = [seen_by(each, validation, folders) for each, _ in networks]
    scores = evaluate_recipe(recipe, [network for _, network in networks], images, device, job.run.previews)

    def recorded() -> Result:
        seconds, memory = time.monotonic() - started, peak_memory_bytes(device)
        job.run.write_environment(device)
        metrics = Metrics(job.run.metrics, None, 0)
        metrics.write(0, "evaluation", **vars(scores))
        metrics.close()
        result = Result(
            recipe.name,
            recipe.seed,
            0,
            scores.miou,
            scores.iou,
            seconds,
            memory,
            entropy=scores.entropy,
            density=scores.density,
        )
        job.run.write_result(result)
        return result

    result = on_rank_zero(recorded)
    watch(Event(job.name, 1, 1, f"mIoU {100 * scores.miou:.1f}", "finished"))
    return result


def check_same_run(job: Job, folders: Folders, checkpoint: Path | None = None) -> None:
    """Raise before hours of training, not after, where a folder holds another run.

    Args:
        job: Whose folder.
        folders: The data.
        checkpoint: Replaces the run that it needs.
    """
    if not job.run.recipe_file.is_file():
        return
    digests: list[str | None] = [None]  # a given checkpoint is compared once it is read
    if checkpoint is None:
        digests = [None if (result := run.result()) is None else result.weights_sha256 for run in job.needs]
    known = [digest for digest in digests if digest is not None]
    digest = "+".join(known) if known and len(known) == len(digests) else None
    job.run.check(job.recipe, _opened(job, folders, digest).inputs)
