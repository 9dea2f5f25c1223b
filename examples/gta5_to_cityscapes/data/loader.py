"""Endless shuffled batches of a data set, from any position on."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import stuffinstance as si

from ..distributed import Share
from . import DatasetError, Sample


class Batch(NamedTuple):
    """A batch of samples."""

    images: Tensor  # (B, 3, H, W) uint8
    labels: Tensor  # (B, H, W) uint8, 255 where unlabeled
    names: list[str]
    classes: Tensor | None = None  # (B,), the class that each was drawn for


class Samples(Protocol):
    """A data set of named samples."""

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class LabeledSamples(Samples, Protocol):
    """A data set whose label maps can be read without the images."""

    def label_map(self, index: int) -> Tensor: ...


Draw = tuple[int, int | None]  # the place of a sample, and the class that it is drawn for


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

    def __getitem__(self, draws: list[Draw]) -> Batch | DatasetError:
        try:
            batch = collate([self.dataset[place] for place, _ in draws])
        except DatasetError as error:
            return error
        classes = [drawn_for for _, drawn_for in draws if drawn_for is not None]
        return batch._replace(classes=torch.tensor(classes)) if classes else batch


class EndlessSteps(Sampler["list[Draw]"]):
    """Sampler of this rank's share of each step, one list of draws for each part.

    Epochs do not end, and go on from any position. Each is drawn by ``sampler``, or without one shuffled by (seed,
    epoch) alone.
    """

    def __init__(
        self, length: int, batch: int, seed: int, start: int, share: Share, sampler: si.RareClassSampler | None
    ) -> None:
        if length < 1:
            raise ValueError("a data set to train on must hold at least one image, got none.")
        self.length, self.batch, self.seed, self.start, self.share = length, batch, seed, start, share
        self.sampler = sampler

    def _order(self) -> Iterator[Draw]:
        epoch, place = divmod(self.start, self.length)
        while True:
            yield from self._epoch(epoch)[place:]
            epoch, place = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[Any]:
        if self.sampler is not None:
            self.sampler.set_epoch(epoch)
            return list(self.sampler)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return [(place, None) for place in torch.randperm(self.length, generator=generator).tolist()]

    def __iter__(self) -> Iterator[list[Draw]]:
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
        sampler: si.RareClassSampler | None = None,
    ) -> None:
        self.batch = batch
        self.share = share or Share()
        self.position = position
        loader: DataLoader[Any] = DataLoader(
            _Batches(dataset),
            batch_size=None,
            sampler=EndlessSteps(len(dataset), batch, seed, position, self.share, sampler),
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
                try:
                    raise batch
                finally:
                    del batch  # a cycle with its traceback would keep the loader, and its workers could not be ended
            parts.append(batch)
        self.position += self.batch
        return parts

    def __iter__(self) -> BatchStream:
        return self

    def close(self) -> None:
        """End the loader's processes; left to the garbage collector, they could outlast the run."""
        self._batches = iter(())


def as_unit_floats(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images as floats in [0, 1] on ``device``."""
    return images.to(device, non_blocking=True).float().div_(255)
