"""Runs of one experiment: which there are, which wait for another, and how one is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..batches.training_data import Folders, open_target, open_training_data
from ..networks import SegmentationNetwork
from ..recipes import Recipe, compose_recipe, first_step_name
from ..recipes.settings import Layouts, PseudoLabels
from ..records.checkpoints import digest_of_weights, load_checkpoint, restore_network
from ..records.progress import Event, Tick, Watch, unwatched
from ..records.run_folder import Result, RunFolder
from ..records.written_files import write_json
from ..training.loop import train
from ..training.pseudo_labelling import Kept, write_pseudo_labels
from ..training.recipe_network import start_network


@dataclass(frozen=True)
class Job:
    """One run, and the run whose checkpoint it starts from, if any."""

    recipe: Recipe
    run: RunFolder
    first_step: RunFolder | None = None

    @property
    def name(self) -> str:
        """As events name it."""
        return self.recipe.title

    @property
    def cost(self) -> float:
        """Work of a run relative to training on labelled pictures alone; only for the time that is left."""
        recipe = self.recipe
        second_pass = 1.2 if recipe.adversarial or recipe.matching or recipe.pseudo_labels else 0.0
        return 1.0 + second_pass + (0.3 if recipe.matching else 0.0) + (0.1 if recipe.restyle else 0.0)


def plan(
    names: Sequence[str],
    seeds: Sequence[int],
    size: str,
    experiment: Path,
    *,
    layouts: Layouts | None = None,
    classes: str = "all",
    overrides: Sequence[str] = (),
) -> list[Job]:
    """Every recipe with every seed, and the first steps that second steps need.

    Their order keeps a pair of workers busy: what others wait for goes first.

    Args:
        names: Names of recipes.
        seeds: Seeds of each.
        size: As in :func:`~..recipes.compose_recipe`, like all that follows ``experiment``.
        experiment: The folder of all their runs, ``<recipe>/seed<k>/``.
        layouts: How the data sets are laid out.
        classes: What is scored.
        overrides: Settings of the size.
    """

    def composed(names: Sequence[str]) -> list[Recipe]:
        return [
            compose_recipe(name, size, seed=seed, layouts=layouts, classes=classes, overrides=overrides)
            for seed in seeds
            for name in names
        ]

    asked = composed(names)
    first_steps = composed(sorted({first_step_name(recipe.name) for recipe in asked if recipe.pseudo_labels}))
    wanted = {(recipe.name, recipe.seed): recipe for recipe in (*first_steps, *asked)}

    def run(name: str, seed: int) -> RunFolder:
        return RunFolder(experiment / name / f"seed{seed}")

    jobs = [
        Job(recipe, run(name, seed), run(first_step_name(name), seed) if recipe.pseudo_labels else None)
        for (name, seed), recipe in wanted.items()
    ]
    waited_for = {job.first_step.path for job in jobs if job.first_step}
    return sorted(jobs, key=lambda job: (job.run.path not in waited_for, job.first_step is None))


def carry_out(
    job: Job,
    folders: Folders,
    device: torch.device,
    watch: Watch = unwatched,
    checkpoint: Path | None = None,
) -> Result:
    """Train one job; a second step labels the target pictures first.

    Args:
        job: What to run.
        folders: The data.
        device: Where to compute.
        watch: Told how far it is.
        checkpoint: Label with this checkpoint in place of the first step's.
    """
    recipe, run = job.recipe, job.run
    if recipe.pseudo_labels is None:
        return train(recipe, run, open_training_data(recipe, folders), device=device, watch=watch)
    checkpoint = checkpoint or (job.first_step.checkpoint if job.first_step else None)
    if checkpoint is None:
        raise ValueError(f"{job.name}: needs the checkpoint of {first_step_name(recipe.name)}; pass --from.")
    finished = run.result()
    if finished is not None:  # what labelled its target need not be there any more
        run.check(recipe, open_training_data(recipe, folders).identity)
        return finished
    saved = load_checkpoint(checkpoint)
    digest = digest_of_weights(saved["network"])
    # Before the first label map is written, not after: a folder may hold another run.
    run.claim(recipe, open_training_data(recipe, folders, first_step_weights=digest).identity)
    network = start_network(recipe, device)
    restore_network(network, saved, checkpoint)
    label_target(
        network,
        recipe,
        recipe.pseudo_labels,
        run,
        folders,
        device,
        weights_sha256=digest,
        tick=lambda done, total: watch(Event(job.name, 0, recipe.schedule.steps, f"labels {done}/{total}")),
    )
    data = open_training_data(recipe, folders, run.pseudo_labels, digest)
    return train(recipe, run, data, device=device, watch=watch)


def label_target(
    network: SegmentationNetwork,
    recipe: Recipe,
    settings: PseudoLabels,
    run: RunFolder,
    folders: Folders,
    device: torch.device,
    *,
    weights_sha256: str,
    tick: Tick,
) -> Kept:
    """Write the target's pseudo-labels and ``thresholds.json`` into ``run``."""
    kept = write_pseudo_labels(
        network,
        open_target(recipe, folders),
        run.pseudo_labels,
        settings,
        recipe.label_space,
        device,
        weights_sha256=weights_sha256,
        batch=recipe.evaluation.batch,
        tick=tick,
    )
    write_json(run.thresholds, kept.as_json())
    return kept


def refuse_another_run(job: Job, folders: Folders) -> None:
    """Find out before hours of training, not after, that a folder holds something else."""
    if not (job.run.path / "recipe.json").is_file():
        return
    if job.first_step is None:
        job.run.check(job.recipe, open_training_data(job.recipe, folders).identity)
    elif (first := job.first_step.result()) is not None:
        digest = first.weights_sha256
        job.run.check(job.recipe, open_training_data(job.recipe, folders, first_step_weights=digest).identity)
    else:
        job.run.check(job.recipe)
