"""Endless shuffled batches whose place can be saved, and the data sets they are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .data import Sample, SegmentationDataset
from .picture_files import read_label_map


class Batch(NamedTuple):
    """Pictures as the data sets give them."""

    images: Tensor  # (B, 3, H, W) uint8
    labels: Tensor  # (B, H, W) uint8, 255 where there is none
    names: tuple[str, ...]


class Samples(Protocol):
    """What the streams need of a data set."""

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""
    sizes = {tuple(sample.image.shape) for sample in samples}
    if len(sizes) > 1:
        raise ValueError(
            f"pictures of one batch must have one size, got {sorted(sizes)} (3, H, W). "
            "Set pictures.source_size and pictures.target_size, or a batch of 1."
        )
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.labels for sample in samples]),
        tuple(sample.name for sample in samples),
    )


class EndlessOrder(Sampler[int]):
    """Indices of epoch after epoch, each shuffled by (seed, epoch) alone, from any place on."""

    def __init__(self, length: int, seed: int, start: int) -> None:
        if length < 1:
            raise ValueError("a data set to train on must hold at least one picture, got none.")
        self.length = length
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[int]:
        epoch, place = divmod(self.start, self.length)
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            yield from torch.randperm(self.length, generator=generator)[place:].tolist()
            epoch, place = epoch + 1, 0


class BatchStream:
    """Endless batches of a data set; ``position`` counts the samples handed out."""

    def __init__(self, dataset: Samples, batch: int, seed: int, *, workers: int = 0, position: int = 0) -> None:
        self.batch = batch
        self.position = position
        order = EndlessOrder(len(dataset), seed, position)
        loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_size=batch,
            sampler=order,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            # Its own generator: starting a loader must not advance the one that a checkpoint restores.
            generator=torch.Generator().manual_seed(seed),
        )
        self._batches = iter(loader)

    def __next__(self) -> Batch:
        batch: Batch = next(self._batches)
        self.position += len(batch.names)
        return batch

    def __iter__(self) -> BatchStream:
        return self


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


class PseudoLabelled(Dataset[Sample]):
    """Target pictures with the labels that a network gave them."""

    def __init__(self, dataset: SegmentationDataset, folder: Path) -> None:
        self.dataset = dataset
        self.names = dataset.names
        self.folder = folder
        missing = [name for name in self.names if not self._file(name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"pseudo-labels in {folder}: expected one PNG for each of {len(self.names)} target pictures, "
                f"{len(missing)} are missing, the first is {self._file(missing[0]).name!r}. "
                "Run `pseudo-label` again with the same --target."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        path = self._file(sample.name)
        labels = read_label_map(path)
        if labels.shape != sample.image.shape[-2:]:
            raise ValueError(
                f"{path}: expected a label map of the target picture's size "
                f"{tuple(sample.image.shape[-2:])} (H, W), got {tuple(labels.shape)}. "
                "Pseudo-labels belong to one pictures.target_size; write them again."
            )
        return sample._replace(labels=labels)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.png"
