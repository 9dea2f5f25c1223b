"""The data sets that a recipe trains and is scored on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import Dataset

from ..data import Sample, SegmentationDataset, open_dataset, require_labels
from ..networks import weights_file
from ..recipes import Recipe
from ..records.input_files import FileDigest, InputFiles, Key
from ..records.run_folder import FIRST_STEP, START_WEIGHTS
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
    inputs: InputFiles
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
    recipe: Recipe,
    folders: Folders,
    pseudo_labels: Path | None = None,
    first_step_weights: str | None = None,
    known: Mapping[Key, FileDigest] | None = None,
) -> TrainingData:
    """Everything a run reads, with what identifies it wherever it lies.

    Args:
        recipe: Whose pictures, in which sizes.
        folders: Where they lie.
        pseudo_labels: Folder of the target's pseudo-labels, once they are written.
        first_step_weights: Digest of the weights that write them, from
            :func:`~..records.checkpoints.digest_of_weights`.
        known: What the run's folder knows of these files, which spares reading those that have not changed.
    """
    labelled = open_labelled(recipe, folders)
    target = open_target(recipe, folders) if recipe.needs_target else None
    validation = open_validation(recipe, folders)
    folder = restyled_folder(recipe.restyle)
    restyled = RestyledPictures(labelled, folder) if folder else None
    # A step restyles its own target pictures, each time towards others; from a folder they come as they are.
    second: Samples | None = target
    if target is not None and restyled_folder(recipe.restyle_target):
        second = as_seen(recipe, target, labelled)
    scored = as_seen(recipe, validation, labelled)
    sets = {"labelled": files_of(labelled, restyled), "validation": files_of(validation, scored)}
    if target is not None:
        sets["target"] = files_of(target, second)
    if (weights := _start_weights(recipe)) is not None:
        sets[START_WEIGHTS] = {"weights": {"network.weights": weights}}
    also = {} if first_step_weights is None else {FIRST_STEP: first_step_weights}
    if pseudo_labels is not None and second is not None:
        second = PseudoLabelled(second, pseudo_labels)
    keep = recipe.running.cache
    return TrainingData(
        DecodedPictures(labelled) if keep else labelled,
        DecodedPictures(second) if keep and second is not None else second,
        DecodedPictures(scored) if keep else scored,
        InputFiles(sets, known or {}, also),
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


def files_of(dataset: SegmentationDataset, seen: Samples | None = None) -> dict[str, dict[str, Path]]:
    """The files of a data set by kind and name; of pictures that are seen restyled from a folder those as well."""
    files = {"images": {entry.name: entry.image for entry in dataset.files}}
    labels = {entry.name: entry.labels for entry in dataset.files if entry.labels is not None}
    if labels:
        files["labels"] = labels
    if isinstance(seen, RestyledPictures):
        files["restyled"] = {name: path for name, path in zip(seen.names, seen.files, strict=True) if path is not None}
    return files


def _start_weights(recipe: Recipe) -> Path | None:
    """The file that training starts from; None where it starts from random weights or the file is gone.

    A run that has ended does not need it; one that goes on or begins reports its absence when it builds the network.
    """
    if recipe.network.weights is None:
        return None
    file = weights_file(Path(recipe.network.weights))
    return file if file.is_file() else None
