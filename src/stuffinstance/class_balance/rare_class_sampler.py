"""Sampler that draws images with rare classes more often (DAFormer)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from stuffinstance._checks import checked_divisor, checked_flag, checked_positive, checked_whole, describe
from stuffinstance.class_balance.class_pixels import check_counts


class RareClassSampler(Sampler["int | tuple[int, int]"]):
    """Rare-class sampling (DAFormer, Sec. 3.3): a class is drawn, the rarer the likelier, then an image that shows it.

    .. math:: P(c) = \\frac{e^{(1 - f_c) / T}}{\\sum_k e^{(1 - f_k) / T}}

    with :math:`f_c` the share of class c among the labeled pixels of the data set. Of the images with more than
    ``min_pixels`` of the class each is equally likely. Paper: Hoyer et al., CVPR 2022, https://arxiv.org/abs/2111.14887.
    A class in no image is never drawn, and the sum is over the others; of a class that no image shows enough of, each
    image with a pixel of it is equally likely (both this library's choice).

    The draws are one stream, cut into epochs of ``num_samples``, that depends on ``seed`` and epoch alone. Each rank
    takes every ``num_replicas``-th draw of it, as of torch's ``DistributedSampler``, so that all epochs have the same
    length on all ranks. An iterator goes on where the one before it stopped; after the last draw of an epoch the next
    epoch follows. :meth:`set_epoch` begins an epoch, if it is another one than the current one.

    Args:
        counts: Pixels per class of each image, (N, K), from :func:`count_class_pixels`.
        temperature: T, above 0. The larger, the more alike the classes.
        min_pixels: More than these must an image have of the class it is drawn for. The paper's 3000 is for images of
            about 2 megapixels.
        num_samples: Draws of an epoch, of all ranks together; None for N. Rounded up to a multiple of the ranks.
        with_class: Yield ``(index, class id)``, for a data set that crops its image where the class is, instead of the
            index.
        seed: The same on all ranks.
        num_replicas: Number of ranks; None for those of ``torch.distributed``, 1 without a process group.
        rank: This process; None for its rank there.

    Attributes:
        probabilities: P, (K,) float32.
        epoch: The current epoch.
        position: This rank's draws of it so far.

    Raises:
        TypeError: If an argument is not of its type.
        ValueError: If ``counts`` is not (N, K) or holds no pixel, or a number is out of range.

    Example:
        >>> counts = torch.tensor([[90, 0], [80, 5], [90, 0]])
        >>> sampler = RareClassSampler(counts, min_pixels=4)
        >>> [round(p, 4) for p in sampler.probabilities.tolist()]
        [0.0, 1.0]
        >>> list(sampler)
        [1, 1, 1]
        >>> loader = torch.utils.data.DataLoader(["a", "b", "c"], batch_size=3, sampler=sampler)
        >>> next(iter(loader))
        ['b', 'b', 'b']
    """

    def __init__(
        self,
        counts: Tensor,
        temperature: float = 0.01,
        min_pixels: int = 3000,
        *,
        num_samples: int | None = None,
        with_class: bool = False,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        check_counts(counts)
        if counts.ndim != 2 or counts.device.type == "meta":
            raise ValueError(f"counts must be an integer tensor (N, K) that holds values, got {describe(counts)}.")
        self.temperature = checked_divisor("temperature", temperature)
        self.min_pixels = checked_whole("min_pixels", min_pixels, 0)
        self.seed = checked_whole("seed", seed, 0)
        self.with_class = checked_flag("with_class", with_class)
        shared = dist.is_available() and dist.is_initialized()
        ranks = dist.get_world_size() if num_replicas is None and shared else num_replicas
        own = dist.get_rank() if rank is None and shared else rank
        self.num_replicas = 1 if ranks is None else checked_positive("num_replicas", ranks)
        self.rank = 0 if own is None else checked_whole("rank", own, 0, self.num_replicas - 1)
        self.num_samples = len(counts) if num_samples is None else checked_positive("num_samples", num_samples)
        self.epoch = self.position = 0

        pixels = counts.detach().to("cpu", torch.int64).numpy()
        totals = pixels.sum(0, dtype=np.float64)
        if not totals.any():
            raise ValueError(f"counts must hold a pixel of a class, got only 0 in {describe(counts)}.")
        logits = np.where(totals > 0, (1 - totals / totals.sum()) / self.temperature, -np.inf)
        probabilities = np.exp(logits - logits.max())
        self.probabilities = torch.tensor((probabilities / probabilities.sum()).tolist(), dtype=torch.float32)
        cumulated = probabilities.cumsum()
        self._cumulated = cumulated / cumulated[-1]
        enough = pixels > self.min_pixels
        shown = np.where(enough.any(0), enough, pixels > 0)
        self._images = shown.T.nonzero()[1]  # of class 0, then of class 1, ...
        self._number = shown.sum(0)
        self._first = self._number.cumsum() - self._number

    def __len__(self) -> int:
        """Draws of an epoch of this rank."""
        return -(-self.num_samples // self.num_replicas)

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        """The rest of the current epoch, or the next one where that is at its end."""
        if self.position >= len(self):
            self.set_epoch(self.epoch + 1)
        epoch, draws = self.epoch, self._draws()
        while self.position < len(self):
            if self.epoch != epoch:  # set meanwhile
                epoch, draws = self.epoch, self._draws()
            self.position += 1
            yield draws[self.position - 1]

    def _draws(self) -> list[Any]:
        """This rank's draws of the current epoch, each by two numbers of the stream."""
        generator = np.random.default_rng([self.seed, self.epoch])
        by_class, by_image = generator.random((len(self) * self.num_replicas, 2))[self.rank :: self.num_replicas].T
        classes = self._cumulated.searchsorted(by_class, side="right")
        images = self._images[self._first[classes] + (by_image * self._number[classes]).astype(np.int64)].tolist()
        return list(zip(images, classes.tolist(), strict=True)) if self.with_class else images

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_samples={self.num_samples}, temperature={self.temperature}, "
            f"min_pixels={self.min_pixels}, seed={self.seed}, epoch={self.epoch}, position={self.position})"
        )

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; the current one goes on where it is, unless it is at its end.

        Args:
            epoch: From 0.

        Raises:
            TypeError: If it is not a whole number.
            ValueError: If it is negative.
        """
        number = checked_whole("epoch", epoch, 0)
        if number != self.epoch or self.position >= len(self):
            self.epoch, self.position = number, 0

    def state_dict(self) -> dict[str, int]:
        """Epoch and position in it, counted in draws of all ranks.

        A loader with worker processes draws ahead of the training. There set ``"position"`` to the number of images of
        this epoch that all ranks have trained on.
        """
        return {"epoch": self.epoch, "position": self.position * self.num_replicas}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on at the position of a :meth:`state_dict`, also with another number of ranks.

        Where that does not divide the position, the draws up to its next multiple are skipped. A position behind the
        last draw is the end of the epoch: with more ranks an epoch may have been longer.

        Args:
            state_dict: ``"epoch"`` and ``"position"``.

        Raises:
            TypeError: If it does not hold whole numbers.
            ValueError: If one is negative.
        """
        if not isinstance(state_dict, Mapping) or set(state_dict) != {"epoch", "position"}:
            raise TypeError(f"state_dict must hold 'epoch' and 'position', got {describe(state_dict)}.")
        epoch = checked_whole("state_dict['epoch']", state_dict["epoch"], 0)
        position = checked_whole("state_dict['position']", state_dict["position"], 0)
        self.epoch, self.position = epoch, min(len(self), -(-position // self.num_replicas))
