"""The pictures of each step: drawn from both domains, restyled towards each other, then augmented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..recipes import Recipe
from .augmentation import TrainingAugmentation
from .restyling import BatchRestyling, chosen_pictures
from .streams import Batch, BatchStream, Samples, as_unit_floats
from .training_data import TrainingData


class Drawn(NamedTuple):
    """One domain's share of a step."""

    images: Tensor  # (B, 3, H, W) float in [0, 1]
    labels: Tensor  # (B, H, W) int64, 255 where there is none


class StepPictures:
    """Draws the pictures of one step after another; ``positions`` say where in the data it stands."""

    def __init__(self, recipe: Recipe, data: TrainingData, device: torch.device, positions: Mapping[str, int]) -> None:
        self.device = device
        self.restyle = BatchRestyling(recipe.restyle) if recipe.restyle and recipe.restyle.in_step else None
        self.probability = recipe.restyle.probability if recipe.restyle else 0.0
        other = recipe.restyle_target
        self.restyle_target = BatchRestyling(other) if other and other.in_step else None
        self.augment = TrainingAugmentation(recipe.augmentation)

        def stream(dataset: Samples, name: str, salt: int) -> BatchStream:
            return BatchStream(
                dataset,
                recipe.pictures.batch,
                2 * recipe.seed + salt,
                workers=recipe.running.workers,
                position=positions[name],
            )

        self.labelled = stream(data.labelled, "labelled", 0)
        # In step with the labelled ones, since their order follows from the same seed and position.
        self.restyled = None if data.restyled is None else stream(data.restyled, "labelled", 0)
        self.target = None if data.target is None else stream(data.target, "target", 1)

    def draw(self) -> tuple[Drawn, Drawn | None]:
        """The next labelled pictures and, where the recipe looks at any, the next target pictures."""
        labelled = self._on_device(next(self.labelled))
        target = None if self.target is None else self._on_device(next(self.target))
        if self.restyled is not None:
            restyled = self._on_device(next(self.restyled)).images
            chosen = chosen_pictures(len(restyled), self.probability)
            labelled.images[chosen] = restyled[chosen]
        if target is not None:
            as_drawn = labelled.images
            if self.restyle is not None:
                labelled = labelled._replace(images=self.restyle(labelled.images, target.images))
            if self.restyle_target is not None:
                target = target._replace(images=self.restyle_target(target.images, as_drawn))
        labelled = Drawn(*self.augment(*labelled, "labelled"))
        if target is not None:
            target = Drawn(*self.augment(*target, "target"))
        return labelled, target

    @property
    def positions(self) -> dict[str, int]:
        """Samples drawn so far of each domain."""
        return {"labelled": self.labelled.position, "target": 0 if self.target is None else self.target.position}

    def _on_device(self, batch: Batch) -> Drawn:
        return Drawn(as_unit_floats(batch.images, self.device), batch.labels.to(self.device).long())
