"""Training data of a recipe: its data sets, and the images of each step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import stuffinstance as si

from ..atomic_io import written_beside
from ..distributed import own_share
from ..input_files import FIRST_STAGE, START_WEIGHTS, InputFiles
from ..methods.foundation_distance import FoundationDistanceConfig
from ..methods.method import Domain, StepContext
from ..methods.rare_classes import CROP_PIXELS, RareClassConfig
from ..methods.style_transfer import StyleTransferConfig, TargetStyleTransferConfig
from ..models import weights_file
from ..recipes import Recipe
from . import DatasetError, Sample, SegmentationDataset, open_dataset, read_id_map, require_labels
from .augmentation import TrainingAugmentation
from .loader import Batch, BatchStream, LabeledSamples, Samples, as_unit_floats
from .style_transfer import (
    BatchStyleTransfer,
    TransferredImages,
    TransferredTowards,
    chosen_images,
    transferred_folder,
)


@dataclass(frozen=True)
class Folders:
    """Folders of the two data sets; their places are not part of a recipe.

    Attributes:
        source: The labeled data set.
        target: The data set to adapt to.
        source_list: Text file that names the source images to use, as
            :func:`~.image_lists.listed_names` reads it; None for all.
        target_list: The same of the target's training images; those that are scored are always all.
    """

    source: Path
    target: Path
    source_list: Path | None = None
    target_list: Path | None = None


@dataclass(frozen=True)
class TrainingData:
    """Data sets of one run.

    ``target`` is absent where no step looks at it. ``transferred`` holds the labeled images after style transfer, in
    the same order, where they come from a folder. ``label_maps`` are the data sets whose ground truth is read, by their
    part in the run, with the classes of which they must show one.
    """

    labeled: LabeledSamples
    target: Samples | None
    validation: Samples
    inputs: InputFiles
    transferred: Samples | None = None
    label_maps: Mapping[str, tuple[SegmentationDataset, Collection[str]]] = field(default_factory=dict)

    def require_labels(self) -> None:
        """Raise where ground truth cannot be trained on or scored with, as :func:`~..data.require_labels` does."""
        for what, (dataset, classes) in self.label_maps.items():
            require_labels(what, dataset, classes)


def open_labeled(recipe: Recipe, folders: Folders) -> SegmentationDataset:
    """Labeled training images."""
    target = recipe.labeled == "target"
    return open_dataset(
        recipe.layouts.target if target else recipe.layouts.source,
        folders.target if target else folders.source,
        split="train",
        table=recipe.space.table("target" if target else "source"),
        size=recipe.data.target_size if target else recipe.data.source_size,
        listed=folders.target_list if target else folders.source_list,
    )


def open_target(recipe: Recipe, folders: Folders) -> SegmentationDataset:
    """Training images of the target, without labels."""
    return open_dataset(
        recipe.layouts.target,
        folders.target,
        split="train",
        table=recipe.space.table("target"),
        size=recipe.data.target_size,
        labels=False,
        listed=folders.target_list,
    )


def open_validation(recipe: Recipe, folders: Folders) -> SegmentationDataset:
    """Labeled validation images of the target."""
    return open_dataset(
        recipe.layouts.target,
        folders.target,
        split="val",
        table=recipe.space.table("target"),
        size=recipe.data.target_size if recipe.evaluation.at == "images" else None,
    )


def open_training_data(
    recipe: Recipe,
    folders: Folders,
    pseudo_labels: Path | None = None,
    first_stage_weights: str | None = None,
) -> TrainingData:
    """Open all data sets of a run, with the digests of their files.

    Args:
        recipe: Whose images, in which sizes.
        folders: Where they lie.
        pseudo_labels: Folder of the target's pseudo-labels, once they are written.
        first_stage_weights: Digest of the weights that write them, from
            :func:`~..checkpoint.digest_of_weights`.
    """
    labeled = open_labeled(recipe, folders)
    target = open_target(recipe, folders) if recipe.needs_target else None
    validation = open_validation(recipe, folders)
    folder = transferred_folder(recipe.config(StyleTransferConfig))
    transferred = TransferredImages(labeled, folder) if folder else None
    # A step transfers its own target images, each time towards others; from a folder they come as they are.
    second: Samples | None = target
    if target is not None and transferred_folder(recipe.config(TargetStyleTransferConfig)):
        second = as_seen(recipe, target, labeled)
    scored = as_seen(recipe, validation, labeled)
    sets = {"labeled": files_of(labeled, transferred), "validation": files_of(validation, scored)}
    if target is not None:
        sets["target"] = files_of(target, second)
    if weights := _weights(recipe):
        sets[START_WEIGHTS] = {"weights": weights}
    also = {} if first_stage_weights is None else {FIRST_STAGE: first_stage_weights}
    if pseudo_labels is not None and second is not None:
        second = PseudoLabeled(second, pseudo_labels)

    def kept(samples: Samples | None) -> Any:
        return DecodedImages(samples) if recipe.runtime.cache and samples is not None else samples

    return TrainingData(
        kept(labeled),
        kept(second),
        kept(scored),
        InputFiles(sets, also),
        kept(transferred),
        {
            "labeled images": (labeled, recipe.label_space.names),
            "validation images": (validation, recipe.classes),
        },
    )


def as_seen(recipe: Recipe, target: SegmentationDataset, labeled: SegmentationDataset | None) -> Samples:
    """Target images as a network of this recipe sees them: as they are, or in the source's style.

    Each image goes towards one of the ``labeled`` source images, always the same one; style-transferred images from a
    folder need none.
    """
    transfer = recipe.config(TargetStyleTransferConfig)
    if transfer is None:
        return target
    folder = transferred_folder(transfer)
    if folder is not None:
        return TransferredImages(target, folder, labels=any(each.labels for each in target.files))
    if labeled is None:
        raise ValueError(
            f"recipe {recipe.name} transfers target images to the source's style and needs the source's images."
        )
    return TransferredTowards(target, labeled, transfer)


class DecodedImages(Dataset[Sample]):
    """Data set that keeps decoded samples in memory."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.names = dataset.names
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            self._kept[index] = self.dataset[index]
        return self._kept[index]

    def label_map(self, index: int) -> Tensor:
        """The label map of a sample, without the image."""
        return self.dataset.label_map(index)


def files_of(dataset: SegmentationDataset, seen: Samples | None = None) -> dict[str, dict[str, Path]]:
    """Files of a data set by kind and name, with those of the transferred images that ``seen`` reads."""
    files = {"images": {entry.name: entry.image for entry in dataset.files}}
    labels = {entry.name: entry.labels for entry in dataset.files if entry.labels is not None}
    if labels:
        files["labels"] = labels
    if isinstance(seen, TransferredImages):
        files["transferred"] = {
            name: path for name, path in zip(seen.names, seen.files, strict=True) if path is not None
        }
    return files


def _weights(recipe: Recipe) -> dict[str, Path]:
    """Files of the start weights and of a foundation model, by their setting; those that are gone are omitted.

    A run that has ended does not need them; one that goes on or begins reports their absence when it builds a network.
    """
    network, foundation = recipe.network, recipe.config(FoundationDistanceConfig)
    given = {
        "network.weights": (network.weights, network.name, network.options),
        "foundation_distance.model": (foundation and foundation.model, "vit", {}),
    }
    files: dict[str, Path] = {}
    for setting, (weights, name, options) in given.items():
        with suppress(ModuleNotFoundError):
            if weights is not None and (file := weights_file(weights, name, options)).is_file():
                files[setting] = file
    return files


class PseudoLabeled(Dataset[Sample]):
    """Target images with their pseudo-labels."""

    def __init__(self, dataset: Samples, folder: Path) -> None:
        self.dataset = dataset
        self.names = dataset.names
        self.folder = folder
        missing = [name for name in self.names if not self._file(name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"pseudo-labels in {folder}: expected one PNG for each of {len(self.names)} target images, "
                f"{len(missing)} are missing, the first is {self._file(missing[0]).name!r}. "
                "Give the same command again, which writes all of them again."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        path = self._file(sample.name)
        labels = read_label_map(path)
        if labels.shape != sample.image.shape[-2:]:
            raise ValueError(
                f"{path}: expected a label map of the target image's size "
                f"{tuple(sample.image.shape[-2:])} (H, W), got {tuple(labels.shape)}. "
                "Pseudo-labels belong to one data.target_size; write them again."
            )
        return sample._replace(labels=labels)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.png"


def write_label_map(labels: Tensor, path: Path) -> None:
    """Write class ids (H, W) as an 8-bit PNG."""
    with written_beside(path) as beside:
        Image.fromarray(labels.to(torch.uint8).cpu().numpy()).save(beside, format="PNG")


def read_label_map(path: Path) -> Tensor:
    """Class ids (H, W) uint8 of an 8-bit PNG."""
    try:
        return torch.from_numpy(read_id_map(path))
    except DatasetError as error:
        raise DatasetError(f"pseudo-label {error} Or delete this file and give the same command again.") from error


class StepImages:
    """This rank's images of one step after another; ``positions`` are those in the data sets."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        device: torch.device,
        positions: Mapping[str, int],
        sampler: si.RareClassSampler | None = None,
    ) -> None:
        self.device = device
        source = recipe.config(StyleTransferConfig)
        self.transfer = BatchStyleTransfer(source) if source and source.in_step else None
        self.probability = source.probability if source else 0.0
        share = own_share(recipe.runtime.accumulate_grad_batches, recipe.data.batch)
        other = recipe.config(TargetStyleTransferConfig)
        self.transfer_target = BatchStyleTransfer(other) if other and other.in_step else None
        rare = recipe.config(RareClassConfig)
        again = () if rare is None else (rare.crops, rare.crop_pixels / CROP_PIXELS)
        self.augment = TrainingAugmentation(recipe.augmentation, *again)

        def stream(dataset: Samples, name: str, salt: int, sampler: si.RareClassSampler | None = None) -> BatchStream:
            return BatchStream(
                dataset,
                recipe.data.batch,
                2 * recipe.seed + salt,
                share=share,
                workers=recipe.runtime.num_workers,
                position=positions[name],
                pinned=device.type == "cuda",
                sampler=sampler,
            )

        self.labeled = stream(data.labeled, "labeled", 0, sampler)
        # In step with the labeled ones, since their order follows from the same seed and position.
        self.transferred = None if data.transferred is None else stream(data.transferred, "labeled", 0, sampler)
        self.target = None if data.target is None else stream(data.target, "target", 1)

    def draw(self, step: int) -> list[StepContext]:
        """The images of the next step, part by part."""
        labeled = next(self.labeled)
        transferred = [None] * len(labeled) if self.transferred is None else next(self.transferred)
        target = [None] * len(labeled) if self.target is None else next(self.target)
        return [self._part(step, *part) for part in zip(labeled, transferred, target, strict=True)]

    def _part(self, step: int, source: Batch, transferred: Batch | None, other: Batch | None) -> StepContext:
        labeled = self._on_device(source)
        target = None if other is None else self._on_device(other)
        if transferred is not None:
            chosen = chosen_images(len(transferred.names), self.probability)
            labeled.images[chosen] = self._on_device(transferred).images[chosen]
        if target is not None:
            as_drawn = labeled.images
            if self.transfer is not None:
                labeled.images = self.transfer(labeled.images, target.images)
            if self.transfer_target is not None:
                target.images = self.transfer_target(target.images, as_drawn)
        classes = None if source.classes is None else source.classes.to(self.device)
        labeled.images, labeled.labels, labeled.plain = self.augment(labeled.images, labeled.labels, "labeled", classes)
        if target is not None:
            target.images, target.labels, target.plain = self.augment(target.images, target.labels, "target")
        return StepContext(step, labeled, target)

    @property
    def positions(self) -> dict[str, int]:
        """Samples drawn so far of each domain, by all ranks together."""
        return {"labeled": self.labeled.position, "target": 0 if self.target is None else self.target.position}

    def close(self) -> None:
        """End the processes that load images."""
        for stream in (self.labeled, self.transferred, self.target):
            if stream is not None:
                stream.close()

    def _on_device(self, batch: Batch) -> Domain:
        return Domain(as_unit_floats(batch.images, self.device), batch.labels.to(self.device, non_blocking=True).long())
