"""A training step over random images."""

from __future__ import annotations

import torch

from examples.gta5_to_cityscapes.methods import Domain, StepContext
from examples.gta5_to_cityscapes.recipes import Recipe
from examples.gta5_to_cityscapes.training.recipe_network import start_network
from examples.gta5_to_cityscapes.training.step import TrainingStep

CPU = torch.device("cpu")


def made_step(recipe: Recipe, *, same_size: bool = False) -> tuple[TrainingStep, StepContext]:
    """A step over random images, of two sizes by default."""
    network = start_network(recipe, CPU)
    step = TrainingStep(recipe, network, CPU)
    generator = torch.Generator().manual_seed(1)

    def domain(height: int, width: int) -> Domain:
        images = torch.rand(2, 3, height, width, generator=generator)
        return Domain(images, torch.randint(0, 19, (2, height, width), generator=generator))

    return step, StepContext(0, domain(48, 96), domain(48, 96) if same_size else domain(32, 64))
