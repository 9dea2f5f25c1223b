"""The one training loop: every recipe runs through here, what it is made of is in its terms."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adaptation_terms import Domain, Passes, compose_terms
from .augmentation import TrainingAugmentation, as_unit_floats
from .batches import Batch, BatchStream
from .checkpoints import (
    load_checkpoint,
    random_state,
    restore_network,
    restore_random_state,
    save_checkpoint,
    seed_everything,
)
from .evaluation import Scores, evaluate
from .networks import SegmentationNetwork, build_network
from .progress_events import Event, Watch, unwatched
from .recipes import Recipe
from .restyling import BatchRestyling
from .run_folder import MetricsFile, Result, RunFolder, peak_memory_bytes
from .schedules import learning_rate_factor, network_optimiser, set_learning_rates
from .stopping import Stopped, StopRequest
from .tensorboard_curves import Curves
from .training_data import TrainingData
from .training_step import TrainingStep


def start_network(recipe: Recipe, device: torch.device) -> SegmentationNetwork:
    """The network as training finds it: the same weights for every recipe of one seed, and in both steps."""
    seed_everything(recipe.seed)
    weights = recipe.network.weights
    network = build_network(
        recipe.network.name,
        recipe.label_space.num_classes,
        weights=None if weights is None else _existing(weights),
        **recipe.network.options,
    )
    return network.to(device)


def train(
    recipe: Recipe,
    run: RunFolder,
    data: TrainingData,
    *,
    device: torch.device,
    watch: Watch = unwatched,
    stop_after: int | None = None,
) -> Result:
    """Train until the recipe's last step, resuming from the run folder's checkpoint where there is one.

    Args:
        recipe: What to train.
        run: Where to; a folder that holds another recipe is refused, one that has ended is returned.
        data: From :func:`~.training_data.open_training_data`.
        device: Where to compute.
        watch: Told how far the run is.
        stop_after: Stop and save after this step as Ctrl-C would.

    Raises:
        Stopped: After Ctrl-C, once the state is saved.
    """
    run.claim(recipe, data.identity)
    finished = run.result()
    if finished is not None:
        return finished
    with StopRequest() as request, _determinism(recipe.deterministic, device):
        return _Training(recipe, run, data, device, watch).run_to_the_end(request, stop_after)


@contextmanager
def _determinism(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let torch choose repeatable kernels; on a GPU some have none, which it then says once."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


class _Training:
    """State of one run; everything in it is saved and restored, or follows from the recipe."""

    def __init__(self, recipe: Recipe, run: RunFolder, data: TrainingData, device: torch.device, watch: Watch) -> None:
        self.recipe, self.run, self.data, self.device, self.watch = recipe, run, data, device, watch
        self.name = f"{recipe.name} seed {recipe.seed}"
        self.network = start_network(recipe, device)
        self.network.train()
        optimiser = network_optimiser(recipe.optimiser, self.network.parameter_groups(recipe.optimiser.lr))
        terms = compose_terms(recipe, self.network, device)
        self.take_step = TrainingStep(recipe, self.network, terms, optimiser, device)
        self.restyle = BatchRestyling(recipe.restyle) if recipe.restyle else None
        self.augment = TrainingAugmentation(recipe.augmentation)
        self.step = 0
        self.seconds = 0.0
        positions = self._resume()
        self.labelled, self.target = self._streams(positions)
        self.metrics = MetricsFile(run.metrics, self.step)
        self.curves = Curves(run.path / "tensorboard" if recipe.running.tensorboard else None, self.step)
        run.write_environment(device)

    def run_to_the_end(self, request: StopRequest, stop_after: int | None) -> Result:
        """The loop itself."""
        schedule = self.recipe.schedule
        started = time.monotonic() - self.seconds
        scores: Scores | None = None
        self._tell("starting" if self.step == 0 else "going on")
        try:
            while self.step < schedule.steps:
                losses = self._train_once()
                self.step += 1
                self.seconds = time.monotonic() - started
                last = self.step == schedule.steps
                if last or self.step % schedule.log_every == 0:
                    self._log(losses)
                if last or self.step % schedule.evaluate_every == 0:
                    scores = self._evaluate()
                    self.seconds = time.monotonic() - started
                stop = (request.asked or self.step == stop_after) and not last
                if last or stop or self.step % schedule.save_every == 0:
                    self._save()
                if stop:
                    self._stop()
            return self._finish(scores or self._evaluate())
        finally:
            self.metrics.close()
            self.curves.close()

    def _train_once(self) -> dict[str, Tensor]:
        set_learning_rates(self.take_step.optimisers, self.recipe.schedule, self.step)
        return self.take_step(self._draw())

    def _draw(self) -> Passes:
        """The next pictures of both domains, restyled (towards this target batch), then augmented."""
        batch = next(self.labelled)
        labelled = self._as_domain(batch)
        target = None if self.target is None else self._as_domain(next(self.target))
        if self.restyle is not None and target is not None:
            labelled.images = self.restyle(labelled.images, target.images)
        labelled = Domain(*self.augment(labelled.images, labelled.labels, "labelled"))
        if target is not None:
            target = Domain(*self.augment(target.images, target.labels, "target"))
        return Passes(self.step, labelled, target)

    def _as_domain(self, batch: Batch) -> Domain:
        return Domain(as_unit_floats(batch.images, self.device), batch.labels.to(self.device).long())

    def _log(self, losses: dict[str, Tensor]) -> None:
        values = {name: float(value) for name, value in losses.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"{self.name}, step {self.step}: loss {', '.join(broken)} is no longer a finite number "
                f"({values}). The checkpoint before it is kept in {self.run.checkpoint}; "
                "lower optimiser.lr or the weight of that term and use another --out."
            )
        lr = self.recipe.optimiser.lr * learning_rate_factor(self.recipe.schedule, self.step - 1)
        line = {f"loss/{name}": value for name, value in values.items()}
        self.metrics.write({"step": self.step, "kind": "train", **line, "lr": lr, "seconds": self.seconds})
        self.curves.add({**line, "lr": lr}, self.step)
        self._tell(f"loss {values['segmentation']:.2f}")

    def _evaluate(self) -> Scores:
        recipe = self.recipe
        scores = evaluate(
            self.network,
            self.data.validation,
            recipe.label_space,
            recipe.classes,
            self.device,
            picture_size=recipe.pictures.target_size,
            batch=recipe.evaluation.batch,
            previews=self.run.previews,
            preview_count=recipe.evaluation.previews,
        )
        self.metrics.write({"step": self.step, "kind": "evaluation", "miou": scores.miou, "iou": scores.iou})
        self.curves.add({"mIoU": scores.miou}, self.step)
        self._tell(f"mIoU {100 * scores.miou:.1f}")
        return scores

    def _tell(self, note: str) -> None:
        self.watch(Event(self.name, self.step, self.recipe.schedule.steps, note))

    def _finish(self, scores: Scores) -> Result:
        result = Result(
            recipe=self.recipe.name,
            seed=self.recipe.seed,
            step=self.step,
            miou=scores.miou,
            iou=scores.iou,
            seconds_total=self.seconds,
            peak_memory_bytes=peak_memory_bytes(self.device),
        )
        self.run.write_result(result)
        self.watch(Event(self.name, self.step, self.step, f"mIoU {100 * scores.miou:.1f}", "finished"))
        return result

    def _stop(self) -> None:
        raise Stopped(
            f"{self.name}: stopped at step {self.step} of {self.recipe.schedule.steps}, saved in "
            f"{self.run.checkpoint}. Give the same command again to go on from there."
        )

    def _save(self) -> None:
        step = self.take_step
        kept = {name: module.state_dict() for term in step.terms for name, module in term.modules().items()}
        save_checkpoint(
            self.run.checkpoint,
            {
                "step": self.step,
                "seconds": self.seconds,
                "recipe": self.recipe.model_dump(mode="json"),
                "network": self.network.state_dict(),
                **kept,
                "optimisers": {name: each.state_dict() for name, each in step.optimisers.items()},
                "scaler": step.scaler.state_dict(),
                "positions": {
                    "labelled": self.labelled.position,
                    "target": 0 if self.target is None else self.target.position,
                },
                "random": random_state(),
            },
        )

    def _resume(self) -> dict[str, int]:
        """Take up the checkpoint if there is one; where the streams stand comes back."""
        if not self.run.checkpoint.is_file():
            return {"labelled": 0, "target": 0}
        saved: dict[str, Any] = load_checkpoint(self.run.checkpoint, self.device)
        self.step, self.seconds = saved["step"], saved["seconds"]
        restore_network(self.network, saved, self.run.checkpoint)
        for term in self.take_step.terms:
            for name, module in term.modules().items():
                module.load_state_dict(saved[name])
        for name, optimiser in self.take_step.optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
        self.take_step.scaler.load_state_dict(saved["scaler"])
        restore_random_state(saved["random"])
        return dict(saved["positions"])

    def _streams(self, positions: dict[str, int]) -> tuple[BatchStream, BatchStream | None]:
        recipe, data = self.recipe, self.data

        def stream(dataset: Any, name: str, salt: int) -> BatchStream:
            return BatchStream(
                dataset,
                recipe.pictures.batch,
                2 * recipe.seed + salt,
                workers=recipe.running.workers,
                position=positions[name],
            )

        target = None if data.target is None else stream(data.target, "target", 1)
        return stream(data.labelled, "labelled", 0), target


def _existing(weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"network.weights: expected a file of start weights, there is none at {path}. Nothing is downloaded: "
            "fetch it yourself and give its path, or leave the setting out to start from random weights."
        )
    return path
