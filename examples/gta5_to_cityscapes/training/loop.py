"""Training loop of every recipe; what a recipe adds is in its methods."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..atomic_io import UnwritableError
from ..checkpoint import digest_of_weights
from ..data import DatasetError
from ..data.training_data import StepImages, TrainingData
from ..distributed import (
    all_gather_object,
    all_reduce_sum,
    any_rank,
    is_rank_zero,
    lost_ranks_reported,
    on_rank_zero,
    own_share,
)
from ..metrics_log import Metrics, StepClock, StepCost, peak_memory_bytes, reset_peak_memory, time_of_a_step
from ..recipes import Recipe
from ..run_dir import Event, Result, RunFolder, Watch, unwatched
from ..signals import STOPPING, Stopped, StopRequest
from .determinism import draw_apart, random_states, repeatable_kernels, restore_random_states
from .evaluation import Scores, evaluate_recipe
from .recipe_network import start_network
from .step import TrainingStep, learning_rate_factor, set_learning_rates

MAX_SKIPPED = 100  # steps in a row that fp16 may overflow in; its scale of losses is halved at each


def train(
    recipe: Recipe,
    run: RunFolder,
    data: TrainingData,
    *,
    device: torch.device,
    watch: Watch = unwatched,
    start: Path | None = None,
    stop_after: int | None = None,
) -> Result:
    """Train until the recipe's last step, resuming from the run folder's checkpoint where there is one.

    Every rank of a process group calls this alike; rank 0 writes the folder and reports progress.

    Args:
        recipe: What to train.
        run: Its folder; one that holds another recipe is an error, the result of a finished one is returned.
        data: From :func:`~..data.training_data.open_training_data`.
        device: Where to compute.
        watch: Called with the progress of the run.
        start: Checkpoint to begin with the weights of; a run that goes on has its own.
        stop_after: Stop and save after this step as Ctrl-C would.

    Raises:
        Stopped: After Ctrl-C, once the state is saved.
        DatasetError: If an image is damaged or gone, or, before the first step, if no label map shows a class.
        UnwritableError: If the disk is full, or the folder is gone or read-only.
        CheckpointError: If there are checkpoints, all of them damaged.
        TooFewImagesError: If a step has fewer images than there are ranks and parts.
        RankLostError: If another rank has ended or does not answer.
    """
    own_share(recipe.runtime.accumulate_grad_batches, recipe.data.batch)

    def claim() -> Result | None:
        if run.result() is None:
            data.require_labels()
        run.claim(recipe, data.inputs)
        return run.result()

    if (finished := on_rank_zero(claim)) is not None:
        return finished
    watch = watch if is_rank_zero() else unwatched

    def report_stopping() -> None:
        watch(Event(recipe.title, 0, 1, STOPPING, "stopping"))

    with (
        StopRequest(report_stopping) as request,
        repeatable_kernels(recipe.deterministic, device),
        lost_ranks_reported(),
    ):
        return _Training(recipe, run, data, device, watch, start).run_to_the_end(request, stop_after)


class _Training:
    """State of one run; everything in it is saved and restored, or follows from the recipe."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        data: TrainingData,
        device: torch.device,
        watch: Watch,
        start: Path | None,
    ) -> None:
        self.recipe, self.run, self.data, self.device, self.watch = recipe, run, data, device, watch
        reset_peak_memory(device)
        saved = self._saved()
        self.network = start_network(recipe, device, start if saved is None else None)
        self.network.train()
        self.take_step = TrainingStep(recipe, self.network, device)
        self.step, self.seconds = 0, 0.0
        self.clock, self.cost = StepClock(device), StepCost()
        self.peak_before = 0  # bytes, in the processes that trained this run before
        self.saved_at: int | None = None
        positions = {"labeled": 0, "target": 0}
        if saved is None:
            draw_apart(recipe.seed)
            self._report("preparing")
            self.take_step.prepare(data.labeled)
        else:
            positions = self._resume(saved)
        self.images = StepImages(recipe, data, device, positions, self.take_step.sampler())
        self.metrics: Metrics | None = None
        if is_rank_zero():
            curves = run.path / "tensorboard" if recipe.runtime.tensorboard else None
            self.metrics = Metrics(run.metrics, curves, self.step)
            run.write_environment(device)

    def _saved(self) -> dict[str, Any] | None:
        """The newest whole checkpoint; rank 0 sets damaged ones aside before the others read."""
        own: list[dict[str, Any] | None] = []
        on_rank_zero(lambda: own.append(self.run.checkpoints.load()))
        return own[0] if own else self.run.checkpoints.load()

    def _resume(self, saved: dict[str, Any]) -> dict[str, int]:
        """Restore a checkpoint; returns the positions of the data streams."""
        self.step = self.saved_at = saved["step"]
        self.seconds, self.peak_before = saved["seconds"], saved["peak_memory_bytes"]
        self.cost = StepCost(**saved["cost"])
        self.take_step.restore(saved, self.run.checkpoint)
        restore_random_states(saved["random"], self.run.checkpoint, self.recipe.seed, self.step)
        return dict(saved["positions"])

    def run_to_the_end(self, request: StopRequest, stop_after: int | None) -> Result:
        """The loop itself."""
        schedule = self.recipe.schedule
        started = time.monotonic() - self.seconds
        scores: Scores | None = None
        self._report("starting" if self.step == 0 else "going on")
        try:
            while self.step < schedule.max_steps:
                losses = self._take_step()
                self.seconds = time.monotonic() - started
                last = self.step == schedule.max_steps
                if last or self.step % schedule.log_every == 0:
                    self._log(losses)
                if last or self.step % schedule.evaluate_every == 0:
                    self._check_finite(losses)
                    scores = self._evaluate()
                    self.seconds = time.monotonic() - started
                stop = any_rank(request.asked or self.step == stop_after) and not last
                if last or stop or self.step % schedule.save_every == 0:
                    self._save(losses)
                if stop:
                    raise Stopped(
                        f"{self.recipe.title}: stopped at step {self.step} of {schedule.max_steps}, saved in "
                        f"{self.run.checkpoint}. Give the same command again to go on from there."
                    )
            return self._finish(scores or self._evaluate())
        except (DatasetError, UnwritableError) as error:
            self.run.note_unreadable(self.data.inputs, str(error))
            # The same error object: it carries which rank reports it.
            error.args = (
                f"after step {self.step}: {error} {self._kept()}; once that is put right, the same command goes on.",
            )
            raise
        finally:
            self.images.close()
            if self.metrics is not None:
                self.metrics.close()

    def _take_step(self) -> dict[str, Tensor]:
        domains = 1 if self.images.target is None else 2
        with self.clock.step(domains * self.recipe.data.batch):  # images of all ranks
            set_learning_rates(self.take_step.optimizers, self.recipe.schedule, self.step)
            with self.clock.data():
                parts = self.images.draw(self.step)
            losses = self.take_step(parts)
        self.step += 1
        if (skipped := self.take_step.skipped) >= MAX_SKIPPED:
            self._diverged(f"the last {skipped} steps were skipped, their gradients overflow in fp16")
        return losses

    def _log(self, losses: dict[str, Tensor]) -> None:
        cost = self.clock.read()
        self.cost += cost
        values = self._finite(losses)
        if self.take_step.skipped:
            self._report("fp16 overflow, step skipped")
            return
        lr = self.recipe.optimizer.lr * learning_rate_factor(self.recipe.schedule, self.step - 1)
        curves = {f"loss/{name}": value for name, value in values.items()}
        self._write("train", **curves, lr=lr, seconds=self.seconds)
        self._write("cost", **cost.means(), peak_memory_bytes=self._peak_memory())
        self._report(f"loss {values['segmentation']:.2f}, {time_of_a_step(cost.seconds / max(1, cost.steps))} a step")

    def _write(self, kind: str, **values: Any) -> None:
        if self.metrics is not None:
            self.metrics.write(self.step, kind, **values)

    def _finite(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """The losses of the whole step, of all ranks; those of a step that fp16 had to skip need not be finite."""
        summed = all_reduce_sum(torch.stack([*losses.values()]))
        values = dict(zip(losses, summed.tolist(), strict=True))
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken and not self.take_step.skipped:
            self._diverged(f"loss {', '.join(broken)} is no longer a finite number ({values})")
        return values

    def _check_finite(self, losses: dict[str, Tensor]) -> None:
        self._finite(losses)  # these were computed before the last update, hence the look at the weights too
        for name, weights in self.network.state_dict().items():
            if not bool(weights.isfinite().all()):
                self._diverged(f"{name} of the network is no longer finite")

    def _diverged(self, what: str) -> NoReturn:
        raise FloatingPointError(
            f"{self.recipe.title}, step {self.step}: {what}. {self._kept()}; "
            "lower optimizer.lr or the weight of that loss and use another --out."
        )

    def _kept(self) -> str:
        if self.saved_at is None:
            return "No checkpoint was written before it"
        return f"The checkpoint of step {self.saved_at} is kept in {self.run.checkpoint}"

    def _evaluate(self) -> Scores:
        scores = evaluate_recipe(self.recipe, [self.network], [self.data.validation], self.device, self.run.previews)
        self._write("evaluation", **vars(scores))
        self._report(f"mIoU {100 * scores.miou:.1f}")
        return scores

    def _report(self, note: str) -> None:
        self.watch(Event(self.recipe.title, self.step, self.recipe.schedule.max_steps, note))

    def _finish(self, scores: Scores) -> Result:
        result = Result(
            recipe=self.recipe.name,
            seed=self.recipe.seed,
            step=self.step,
            **vars(scores),
            seconds_total=on_rank_zero(lambda: self.seconds),
            peak_memory_bytes=max(all_gather_object(self._peak_memory())),
            weights_sha256=digest_of_weights(self.network.state_dict()),
            **on_rank_zero(self.cost.means),
        )
        on_rank_zero(lambda: self.run.write_result(result))
        self.watch(Event(self.recipe.title, self.step, self.step, f"mIoU {100 * scores.miou:.1f}", "finished"))
        return result

    def _peak_memory(self) -> int:
        return max(self.peak_before, peak_memory_bytes(self.device))

    def _save(self, losses: dict[str, Tensor]) -> None:
        self._check_finite(losses)
        states, memory = random_states(), max(all_gather_object(self._peak_memory()))
        on_rank_zero(
            lambda: self.run.checkpoints.save(
                {
                    "step": self.step,
                    "seconds": self.seconds,
                    "peak_memory_bytes": memory,
                    "cost": vars(self.cost),
                    "recipe": self.recipe.model_dump(mode="json"),
                    **self.take_step.state(),
                    "positions": self.images.positions,
                    "random": states,
                },
                keep=self.recipe.runtime.save_total_limit,
                replaced=self.saved_at,
            )
        )
        self.saved_at = self.step
