"""The pictures of each step: drawn from both domains, restyled towards each other, then augmented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..ranks.shares import own_share
from ..recipes import Recipe
from .augmentation import TrainingAugmentation
from .restyling import BatchRestyling, chosen_pictures
from .streams import Batch, BatchStream, Samples, as_unit_floats
from .training_data import TrainingData


class Drawn(NamedTuple):
    """One domain's share of a step."""

    images: Tensor  # (B, 3, H, W) float in [0, 1]
    labels: Tensor  # (B, H, W) int64, 255 where there is none


class Pair(NamedTuple):
    """One part of a step: labelled pictures and, where the recipe looks at any, as many of the target."""

    labelled: Drawn
    target: Drawn | None


class StepPictures:
    """Draws this rank's pictures of one step after another; ``positions`` say where in the data it stands."""

    def __init__(self, recipe: Recipe, data: TrainingData, device: torch.device, positions: Mapping[str, int]) -> None:
        self.device = device
        self.restyle = BatchRestyling(recipe.restyle) if recipe.restyle and recipe.restyle.in_step else None
        self.probability = recipe.restyle.probability if recipe.restyle else 0.0
        share = own_share(recipe.running.accumulate, recipe.pictures.batch)
        other = recipe.restyle_target
        self.restyle_target = BatchRestyling(other) if other and other.in_step else None
        self.augment = TrainingAugmentation(recipe.augmentation)

        def stream(dataset: Samples, name: str, salt: int) -> BatchStream:
            return BatchStream(
                dataset,
                recipe.pictures.batch,
                2 * recipe.seed + salt,
                share=share,
                workers=recipe.running.workers,
                position=positions[name],
                pinned=device.type == "cuda",
            )

        self.labelled = stream(data.labelled, "labelled", 0)
        # In step with the labelled ones, since their order follows from the same seed and position.
        self.restyled = None if data.restyled is None else stream(data.restyled, "labelled", 0)
        self.target = None if data.target is None else stream(data.target, "target", 1)

    def draw(self) -> list[Pair]:
        """The pictures of the next step, part by part."""
        labelled = next(self.labelled)
        restyled = [None] * len(labelled) if self.restyled is None else next(self.restyled)
        target = [None] * len(labelled) if self.target is None else next(self.target)
        return [self._pair(*part) for part in zip(labelled, restyled, target, strict=True)]

    def _pair(self, source: Batch, restyled: Batch | None, other: Batch | None) -> Pair:
        labelled = self._on_device(source)
        target = None if other is None else self._on_device(other)
        if restyled is not None:
            chosen = chosen_pictures(len(restyled.names), self.probability)
            labelled.images[chosen] = self._on_device(restyled).images[chosen]
        if target is not None:
            as_drawn = labelled.images
            if self.restyle is not None:
                labelled = labelled._replace(images=self.restyle(labelled.images, target.images))
            if self.restyle_target is not None:
                target = target._replace(images=self.restyle_target(target.images, as_drawn))
        labelled = Drawn(*self.augment(*labelled, "labelled"))
        if target is not None:
            target = Drawn(*self.augment(*target, "target"))
        return Pair(labelled, target)

    @property
    def positions(self) -> dict[str, int]:
        """Samples drawn so far of each domain, by all ranks together."""
        return {"labelled": self.labelled.position, "target": 0 if self.target is None else self.target.position}

    def _on_device(self, batch: Batch) -> Drawn:
        return Drawn(as_unit_floats(batch.images, self.device), batch.labels.to(self.device, non_blocking=True).long())
