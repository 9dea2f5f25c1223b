"""Timing of a few real steps of a recipe, in a process of their own for the peak memory.

Nothing is written. The network starts as the run would, without a checkpoint; a method that begins late takes part.
"""

from __future__ import annotations

import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Sample
from ..data.loader import LabeledSamples
from ..data.training_data import Folders, StepImages, open_training_data
from ..metrics_log import StepClock, peak_memory_bytes, reset_peak_memory
from ..recipes import Recipe
from .determinism import repeatable_kernels
from .evaluation import evaluate_recipe
from .recipe_network import start_network
from .step import TrainingStep


@dataclass(frozen=True)
class TimedSteps:
    """Time and memory of steps.

    Attributes:
        seconds_per_step: Mean, without the first.
        seconds_per_image: Of a validation image that is scored.
        memory_bytes: Peak of the process; on a GPU what was allocated there.
        process_bytes: Peak of the process in the machine's memory, on a CPU the same.
        checkpoint_bytes: Of what a checkpoint holds.
    """

    seconds_per_step: float
    seconds_per_image: float
    memory_bytes: int
    process_bytes: int
    checkpoint_bytes: int


def time_steps_apart(recipe: Recipe, folders: Folders, device: torch.device, steps: int, threads: int) -> TimedSteps:
    """:func:`time_steps` in a fresh process of ``threads`` threads.

    Raises:
        concurrent.futures.process.BrokenProcessPool: If the process was killed, as one without memory is.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        return pool.submit(time_steps, recipe, folders, device, steps).result()


def time_steps(recipe: Recipe, folders: Folders, device: torch.device, steps: int) -> TimedSteps:
    """Take ``steps`` steps after a first one, which is not counted, and score one batch of validation images.

    Args:
        recipe: One without pseudo-labels.
        folders: The data.
        device: Where to compute.
        steps: At least 1.
    """
    clock = StepClock(device)
    with repeatable_kernels(recipe.deterministic, device):
        reset_peak_memory(device)
        data = open_training_data(recipe, folders)
        network = start_network(recipe, device).train()
        take_step = TrainingStep(recipe, network, device)
        take_step.prepare(_Few(data.labeled, recipe.data.batch))  # counting all label maps may take minutes
        images = StepImages(recipe, data, device, {"labeled": 0, "target": 0})
        for step in range(steps + 1):
            with clock.step(recipe.data.batch):
                take_step(images.draw(recipe.schedule.max_steps - 1))  # every method has begun
            if step == 0:
                clock.read()  # not counted
        seconds_per_step = clock.read().seconds / steps
        few = _Few(data.validation, recipe.evaluation.batch)
        evaluate_recipe(recipe, [network], [few], device)
        with clock.step(len(few)):
            evaluate_recipe(recipe, [network], [few], device)
    seconds_per_image = clock.read().seconds / len(few)
    memory, process = peak_memory_bytes(device), peak_memory_bytes(torch.device("cpu"))
    checkpoint = io.BytesIO()
    torch.save(take_step.state(), checkpoint)
    return TimedSteps(seconds_per_step, seconds_per_image, memory, process, checkpoint.getbuffer().nbytes)


class _Few:
    """The first images of a data set."""

    def __init__(self, dataset: LabeledSamples, count: int) -> None:
        self.dataset = dataset
        self.names = dataset.names[:count]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]

    def label_map(self, index: int) -> Tensor:
        """The labels alone."""
        return self.dataset.label_map(index)
