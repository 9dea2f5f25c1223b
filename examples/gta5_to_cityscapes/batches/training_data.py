"""The data sets that a recipe trains and is scored on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..data import Sample, SegmentationDataset, open_dataset, require_labels
from ..recipes import Recipe
from ..records.run_folder import FIRST_STEP
from .pseudo_labelled import PseudoLabelled
from .restyling import RestyledPictures, RestyledTowards, restyled_folder
from .streams import Samples


@dataclass(frozen=True)
class Folders:
    """Where the two data sets lie; where they lie is no part of a recipe.

    Attributes:
        source: The labelled data set.
        target: The data set to adapt to.
        source_list: Text file that names the source pictures to use, as
            :func:`~..data.picture_lists.listed_names` reads it; None for all.
        target_list: The same of the target's training pictures; those that are scored are always all.
    """

    source: Path
    target: Path
    source_list: Path | None = None
    target_list: Path | None = None


@dataclass(frozen=True)
class TrainingData:
    """Data sets of one run.

    ``target`` is absent where no step looks at it. ``restyled`` holds the labelled pictures restyled, in the
    same order, where they come from a folder. ``label_maps`` are the data sets whose ground truth is read, by their
    part in the run, with the classes of which they must show one.
    """

    labelled: Samples
    target: Samples | None
    validation: Samples
    identity: dict[str, Any]
    restyled: Samples | None = None
    label_maps: Mapping[str, tuple[SegmentationDataset, Collection[str]]] = field(default_factory=dict)

    def require_labels(self) -> None:
        """Refuse ground truth that nothing can be trained on or scored with, as :func:`~..data.require_labels` does."""
        for what, (dataset, classes) in self.label_maps.items():
            require_labels(what, dataset, classes)


def open_labelled(recipe: Recipe, folders: Folders) -> SegmentationDataset:
    """The pictures whose ground truth is trained on."""
    target = recipe.labelled == "target"
    return open_dataset(
        recipe.layouts.target if target else recipe.layouts.source,
        folders.target if target else folders.source,
        split="train",
        space=recipe.label_space,
        size=recipe.pictures.target_size if target else recipe.pictures.source_size,
        listed=folders.target_list if target else folders.source_list,
    )


def open_target(recipe: Recipe, folders: Folders) -> SegmentationDataset:
    """The target's training pictures; no label file is needed and none is read."""
    return open_dataset(
        recipe.layouts.target,
        folders.target,
        split="train",
        space=recipe.label_space,
        size=recipe.pictures.target_size,
        labels=False,
        listed=folders.target_list,
    )


def open_validation(recipe: Recipe, folders: Folders) -> SegmentationDataset:
    """The labelled pictures that are scored and never trained on."""
    return open_dataset(
        recipe.layouts.target,
        folders.target,
        split="val",
        space=recipe.label_space,
        size=recipe.pictures.target_size if recipe.evaluation.at == "pictures" else None,
    )


def open_training_data(
    recipe: Recipe, folders: Folders, pseudo_labels: Path | None = None, first_step_weights: str | None = None
) -> TrainingData:
    """Everything a run reads, with what identifies it wherever it lies.

    Args:
        recipe: Whose pictures, in which sizes.
        folders: Where they lie.
        pseudo_labels: Folder of the target's pseudo-labels, once they are written.
        first_step_weights: Digest of the weights that write them, from
            :func:`~..records.checkpoints.digest_of_weights`.
    """
    labelled = open_labelled(recipe, folders)
    target = open_target(recipe, folders) if recipe.needs_target else None
    validation = open_validation(recipe, folders)
    identity: dict[str, Any] = {"labelled": fingerprint(labelled), "validation": fingerprint(validation)}
    if target is not None:
        identity["target"] = fingerprint(target)
    if first_step_weights is not None:
        identity[FIRST_STEP] = first_step_weights
    folder = restyled_folder(recipe.restyle)
    restyled = RestyledPictures(labelled, folder) if folder else None
    # A step restyles its own target pictures, each time towards others; from a folder they come as they are.
    second: Samples | None = target
    if target is not None and restyled_folder(recipe.restyle_target):
        second = as_seen(recipe, target, labelled)
    if pseudo_labels is not None and second is not None:
        second = PseudoLabelled(second, pseudo_labels)
    keep = recipe.running.cache
    scored = as_seen(recipe, validation, labelled)
    return TrainingData(
        DecodedPictures(labelled) if keep else labelled,
        DecodedPictures(second) if keep and second is not None else second,
        DecodedPictures(scored) if keep else scored,
        identity,
        DecodedPictures(restyled) if keep and restyled is not None else restyled,
        {
            "labelled pictures": (labelled, recipe.label_space.names),
            "validation pictures": (validation, recipe.classes),
        },
    )


def as_seen(recipe: Recipe, target: SegmentationDataset, labelled: SegmentationDataset | None) -> Samples:
    """Target pictures as a network of this recipe sees them: as they are, or restyled as the source.

    Each picture goes towards one of the ``labelled`` source pictures, always the same one; restyled pictures that come
    from a folder need none.
    """
    if recipe.restyle_target is None:
        return target
    folder = restyled_folder(recipe.restyle_target)
    if folder is not None:
        return RestyledPictures(target, folder, labels=any(each.labels for each in target.files))
    if labelled is None:
        raise ValueError(f"recipe {recipe.name} restyles the target as the source and needs the source's pictures.")
    return RestyledTowards(target, labelled, recipe.restyle_target)


class DecodedPictures(Dataset[Sample]):
    """Keep what has been decoded in memory: two slow cores should train, not decode the same PNG again."""

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset
        self.names = dataset.names
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            self._kept[index] = self.dataset[index]
        return self._kept[index]


def fingerprint(dataset: SegmentationDataset) -> dict[str, Any]:
    """How many pictures, and a digest of their names and file sizes: other pictures, other digest."""
    digest = hashlib.sha256()
    for name, files in zip(dataset.names, dataset.files, strict=True):
        digest.update(f"{name}\0{files.image.stat().st_size}\n".encode())
    return {"pictures": len(dataset), "digest": digest.hexdigest()[:16]}
