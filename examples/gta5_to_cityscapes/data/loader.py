"""Endless shuffled batches of a data set, from any position on."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from itertools import islice
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
    names: list[str]


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
        [sample.name for sample in samples],
    )


class _Batches(Dataset["Batch | DatasetError"]):
    """Whole batches of a data set; a DatasetError is returned, as raising it in a worker would print a traceback."""

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset

    def __getitem__(self, places: list[int]) -> Batch | DatasetError:
        try:
            return collate([self.dataset[place] for place in places])
        except DatasetError as error:
            return error


class EndlessSteps(Sampler["list[int]"]):
    """Sampler of this rank's share of each step, one list of places for each part.

    Epochs do not end; each is shuffled by (seed, epoch) alone, from any position on.
    """

    def __init__(self, length: int, batch: int, seed: int, start: int, share: Share) -> None:
        if length < 1:
            raise ValueError("a data set to train on must hold at least one image, got none.")
        self.length, self.batch, self.seed, self.start, self.share = length, batch, seed, start, share

    def _order(self) -> Iterator[int]:
        epoch, place = divmod(self.start, self.length)
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            yield from torch.randperm(self.length, generator=generator)[place:].tolist()
            epoch, place = epoch + 1, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        while True:
            step = list(islice(order, self.batch))
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
        loader: DataLoader[Any] = DataLoader(
            _Batches(dataset),
            batch_size=None,
            sampler=EndlessSteps(len(dataset), batch, seed, position, self.share),
            num_workers=workers,
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
                raise batch
            parts.append(batch)
        self.position += self.batch
        return parts

    def __iter__(self) -> BatchStream:
        return self


def as_unit_floats(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images as floats in [0, 1] on ``device``."""
    return images.to(device, non_blocking=True).float().div_(255)
