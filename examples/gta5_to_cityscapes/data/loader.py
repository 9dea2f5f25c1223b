"""Endless shuffled batches of a data set, from any position on."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..distributed import Share
from . import DatasetError, Sample


class Batch(NamedTuple):
    """A batch of samples."""

    images: Tensor  # (B, 3, H, W) uint8
    labels: Tensor  # (B, H, W) uint8, 255 where unlabeled
    names: tuple[str, ...]


class Samples(Protocol):
    """A data set of named samples."""

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""
    sizes = {tuple(sample.image.shape) for sample in samples}
    if len(sizes) > 1:
        raise ValueError(
            f"images of one batch must have one size, got {sorted(sizes)} (3, H, W). "
            "Set data.source_size and data.target_size, or a batch of 1."
        )
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.labels for sample in samples]),
        tuple(sample.name for sample in samples),
    )


class _OrError(Dataset["Sample | DatasetError"]):
    """Returns a DatasetError as a sample: raised in a worker process it would come as a traceback."""

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample | DatasetError:
        try:
            return self.dataset[index]
        except DatasetError as error:
            return error


def _collate_or_error(samples: Sequence[Sample | DatasetError]) -> Batch | DatasetError:
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DatasetError):
            return sample
        whole.append(sample)
    return collate(whole)


class EndlessOrder(Sampler[int]):
    """Sampler of endless epochs, each shuffled by (seed, epoch) alone, from any position on."""

    def __init__(self, length: int, seed: int, start: int) -> None:
        if length < 1:
            raise ValueError("a data set to train on must hold at least one image, got none.")
        self.length = length
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[int]:
        epoch, place = divmod(self.start, self.length)
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            yield from torch.randperm(self.length, generator=generator)[place:].tolist()
            epoch, place = epoch + 1, 0


class StepPlaces(Sampler[list[int]]):
    """Batch sampler of this rank's share of each step, one list for each part."""

    def __init__(self, order: EndlessOrder, batch: int, share: Share) -> None:
        self.order, self.batch, self.share = order, batch, share

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.order)
        while True:
            step = [next(order) for _ in range(self.batch)]
            for places in self.share.places(self.batch):
                yield [step[place] for place in places]


def _leave_signals_to_the_run(worker: int) -> None:
    """Ignore SIGINT and SIGTERM, which terminals and schedulers send to all processes: the run still ends its step.

    Workers end when the run lets go of its loader, or is gone.
    """
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


class BatchStream:
    """Endless iterator over steps; each is the batches of this rank's share, one for each part.

    ``position`` counts the samples that all ranks together have been handed.
    """

    def __init__(
        self,
        dataset: Samples,
        batch: int,
        seed: int,
        *,
        share: Share | None = None,
        workers: int = 0,
        position: int = 0,
        pinned: bool = False,
    ) -> None:
        self.batch = batch
        self.share = share or Share()
        self.position = position
        order = EndlessOrder(len(dataset), seed, position)
        loader: DataLoader[Any] = DataLoader(
            _OrError(dataset),
            batch_sampler=StepPlaces(order, batch, self.share),
            num_workers=workers,
            collate_fn=_collate_or_error,
            pin_memory=pinned,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_the_run,
            # Its own generator: starting a loader must not advance the one that a checkpoint restores.
            generator=torch.Generator().manual_seed(seed),
        )
        self._batches = iter(loader)

    def __next__(self) -> list[Batch]:
        parts: list[Batch] = []
        for _ in range(self.share.parts):
            batch: Batch | DatasetError = next(self._batches)
            if isinstance(batch, DatasetError):
                try:
                    raise batch
                finally:
                    del batch  # a cycle with its traceback would keep the loader, and its workers could not be ended
            parts.append(batch)
        self.position += self.batch
        return parts

    def __iter__(self) -> BatchStream:
        return self


def as_unit_floats(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images as floats in [0, 1] on ``device``."""
    return images.to(device, non_blocking=True).float().div_(255)
