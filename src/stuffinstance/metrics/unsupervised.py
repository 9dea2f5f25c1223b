"""Metrics of predictions that need no labels: their entropy and the density of their neighborhoods."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stuffinstance._checks import (
    check_can_move,
    check_kind,
    check_maps,
    checked_divisor,
    checked_num_classes,
    checked_positive,
)
from stuffinstance._numerics import as_float, autocast_device
from stuffinstance._state import Metric
from stuffinstance.distributed import Sync, sum_over_ranks
from stuffinstance.losses.entropy_minimization import self_information
from stuffinstance.pseudo_labels.threshold import check_probabilities

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_WHOLE, _REST = 20, 32  # bits behind the point of the two numbers of a sum


class _StreamingMean(Metric):
    """A mean over all that was seen, from whole numbers: exact to 2^-52 a value, in any order, without float64."""

    sums: Tensor
    count: Tensor

    def __init__(self, sync: Sync, group: ProcessGroup | None, validate_args: bool) -> None:
        super().__init__(sync, group, validate_args)
        self._hold("sums", 2)
        self._hold("count")

    @property
    def total(self) -> float:
        """The sum of what this rank counted; reads from the device."""
        whole, rest = self.sums.tolist()
        return _joined(whole, rest) / (1 << (_WHOLE + _REST))

    def _add(self, values: Tensor) -> None:
        """Count values of any shape; one that is not finite is ignored."""
        counted = values.isfinite()
        # A value is split into whole multiples of 2^-20 and of 2^-52, both exact in the values' own precision.
        scaled = torch.where(counted, values, 0) * 2**_WHOLE
        whole = scaled.floor()
        rest = ((scaled - whole) * 2**_REST).to(torch.int64)
        self._join(torch.stack([whole.to(torch.int64).sum(), rest.sum()]), counted.sum())

    def _join(self, sums: Tensor, count: Tensor) -> None:
        whole, rest = self.sums + sums.to(self.sums.device)
        self.sums.copy_(torch.stack([whole + (rest >> _REST), rest & (2**_REST - 1)]))
        self.count.add_(count.to(self.count.device))

    def forward(self, preds: Tensor) -> float:
        """Count a batch and return the value of that batch alone, on this rank.

        Args:
            preds: As for :meth:`update`.
        """
        value: float = self._of_batch(preds)
        return value

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, preds: Tensor) -> float: ...

    def compute(self) -> float:
        """The mean so far, over all ranks; NaN where nothing was counted."""
        own = torch.cat([self.sums, self.count[None]])
        whole, rest, count = sum_over_ranks(own, self.sync, self.group).tolist()
        return _joined(whole, rest) / (count << (_WHOLE + _REST)) if count else math.nan

    def merge(self, other: _StreamingMean) -> None:
        """Add what another part of the data set counted.

        Raises:
            TypeError: If ``other`` is not a metric of this kind.
            ValueError: If ``other`` is another metric, or has other settings.
        """
        if not isinstance(other, _StreamingMean):
            check_kind("other", other, type(self))
        own, others = (f"{type(each).__name__}({each.extra_repr()})" for each in (self, other))
        if own != others:
            raise ValueError(f"other must be {own}, got {others}: their means are not of the same thing.")
        self._join(other.sums, other.count)


def _joined(whole: int, rest: int) -> int:
    """The two whole numbers of a sum as one, in units of 2^-52."""
    return (whole << _REST) + rest


class PredictionEntropy(_StreamingMean):
    """Mean normalized entropy of the predictions of a whole data set: lower is more certain.

    .. math:: \\frac{1}{N} \\sum_x \\frac{-\\sum_c p_c(x) \\log p_c(x)}{\\log K} \\in [0, 1]

    over all N pixels, with the probabilities *p* of K classes: the entropy of ADVENT
    (https://arxiv.org/abs/1811.12833), whose map is :func:`entropy_map`. Every pixel counts alike and no ground truth
    is needed, so no class is ignored; an absent class still counts in log K. A network that is certain of the wrong
    class scores well, and one trained to be certain (:class:`EntropyLoss`) scores better than it should. Memory: three
    numbers, and in :meth:`update` a few copies of the batch's probabilities.

    Args:
        num_classes: K, of at least 2.
        sync: ``"auto"`` joins the pixels of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check that values are probabilities on a GPU too; on CPU tensors they are always checked. Where
            they are not checked, pixels that are not finite are not counted.

    Attributes:
        sums: (2,) int64, the sum of the entropies in multiples of 2^-20 and of 2^-52; ``total`` gives it as one number.
            As ``count`` a rank's own: saved, but not a buffer.
        count: int64, the pixels.

    Raises:
        ValueError: If ``num_classes`` is below 2.

    Example:
        >>> score = PredictionEntropy(num_classes=2)
        >>> score.update(torch.tensor([[[[0.5, 1.0]], [[0.5, 0.0]]]]))     # uniform, certain
        >>> score.compute()
        0.5
    """

    def __init__(
        self,
        num_classes: int,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(sync, group, validate_args)
        self.num_classes = checked_num_classes(num_classes)
        if self.num_classes == 1:
            raise ValueError("num_classes must be at least 2, got 1: one class has no entropy.")

    @torch.no_grad()
    def update(self, preds: Tensor) -> None:
        """Count a batch.

        Args:
            preds: Softmax outputs, (B, K, H, W), any floating dtype; computed in single precision at least.

        Raises:
            TypeError: If ``preds`` is not a tensor.
            ValueError: If rank, dtype or K do not fit, or the values are not probabilities (logits, say, or NaN).
        """
        check_probabilities("preds", preds, self.num_classes, self.validate_args)
        check_can_move("preds", preds, "metric", self.sums)
        self._add(self_information(as_float(preds)).sum(1))

    def extra_repr(self) -> str:
        """The settings, for ``print(metric)``."""
        return f"num_classes={self.num_classes}"

    def _settings(self) -> dict[str, Any]:
        return {"score": "entropy", "num_classes": int(self.num_classes)}


class SoftNeighborhoodDensity(_StreamingMean):
    """Soft neighborhood density, SND (Saito et al., ICCV 2021): higher is better, by its authors' reasoning.

    .. math:: P_{ij} = \\frac{\\exp(\\langle f_i, f_j \\rangle / \\tau)}{\\sum_{k \\ne i} \\exp(\\langle f_i, f_k
              \\rangle / \\tau)}, \\qquad \\mathrm{SND} = -\\frac{1}{N} \\sum_i \\sum_{j \\ne i} P_{ij} \\log P_{ij}

    with :math:`f` the softmax outputs of N pixels divided by their Euclidean lengths; in nats, at most
    :math:`\\log(N - 1)`. Pixels of one class that are predicted alike have many near neighbors, those that the network
    is unsure of in different ways have few. A network that predicts the same everywhere scores highest of all, so look
    at more than this number.

    In the paper (https://arxiv.org/abs/2108.10860) all target samples are neighbors of one another, none of itself. The
    reference implementation for segmentation takes 100 random pixels of each image and the mean over images, a pixel
    also being its own neighbor. Here as many pixels of each image and the mean over images too, without a pixel's own
    similarity. This library's choice: the pixels are the centers of the cells of a grid of nearly square cells, so that
    nothing is random and every checkpoint is evaluated on the same pixels. Compare values of the same ``sample`` and
    image sizes only. No ground truth is needed, so no class is ignored or absent.

    Memory: three numbers, and in :meth:`update` a few times B · ``sample²`` numbers, whatever the image size.

    Args:
        temperature: :math:`\\tau`, above 0. The paper's value for all data sets is 0.05.
        sample: The most pixels of an image, at least 2; the grid's rows times columns. All pixels of a smaller image.
        sync: ``"auto"`` joins the images of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check that values are probabilities on a GPU too; on CPU tensors they are always checked. Where
            they are not checked, pixels that are not finite have no neighbors.

    Attributes:
        sums: (2,) int64, the sum of the images' densities in multiples of 2^-20 and of 2^-52; ``total`` gives it as one
            number. As ``count`` a rank's own: saved, but not a buffer.
        count: int64, the images.

    Raises:
        ValueError: If ``temperature`` is not above 0, or ``sample`` is below 2.

    Example:
        >>> alike = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> score = SoftNeighborhoodDensity()
        >>> score.update(alike)                      # each of three pixels has two neighbors equally near
        >>> round(score.compute(), 4) == round(math.log(2), 4)
        True
    """

    def __init__(
        self,
        temperature: float = 0.05,
        sample: int = 100,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(sync, group, validate_args)
        self.temperature = checked_divisor("temperature", temperature)
        self.sample = checked_positive("sample", sample)
        if self.sample < 2:
            raise ValueError(f"sample must be at least 2 pixels, got {self.sample}: one alone has no neighbor.")

    @torch.no_grad()
    def update(self, preds: Tensor) -> None:
        """Count a batch; an image of a single pixel is not counted.

        Args:
            preds: Softmax outputs, (B, K, H, W), any K and floating dtype; computed in single precision at
                least.

        Raises:
            TypeError: If ``preds`` is not a tensor.
            ValueError: If rank or dtype do not fit, or the values are not probabilities (logits, say, or NaN).
        """
        check_maps("preds", preds, channel_name="K")
        check_can_move("preds", preds, "metric", self.sums)
        sampled = _on_grid(preds, self.sample)
        check_probabilities("preds", sampled, preds.shape[1], self.validate_args)
        with torch.autocast(autocast_device(preds), enabled=False):
            self._add(_density(as_float(sampled).flatten(2).transpose(1, 2), self.temperature))

    def extra_repr(self) -> str:
        """The settings, for ``print(metric)``."""
        return f"temperature={self.temperature}, sample={self.sample}"

    def _settings(self) -> dict[str, Any]:
        return {"score": "density", "temperature": self.temperature, "sample": int(self.sample)}


def _on_grid(maps: Tensor, sample: int) -> Tensor:
    """The pixels of (B, K, H, W) in the middles of r x c nearly square cells, (B, K, r, c), at most ``sample``."""
    height, width = maps.shape[2:]
    side = _largest(sample, lambda cells: cells * cells * width <= sample * height)
    rows = _largest(max(side, 1), lambda cells: cells <= height)
    columns = _largest(sample // rows, lambda cells: cells <= width)
    rows = _largest(sample // columns, lambda cells: cells <= height)  # a narrow image leaves room for more
    return maps[:, :, _middles(rows, height, maps)[:, None], _middles(columns, width, maps)]


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that fits, where all smaller ones do.

    Found by comparing, not by min and a root: where a compiler lets sizes vary, the grid is then made of plain numbers
    that hold for a range of sizes. Of formulas the compiler would make longer ones, for minutes.
    """
    largest, above = 0, most + 1
    while above - largest > 1:
        middle = (largest + above) // 2
        if fits(middle):
            largest = middle
        else:
            above = middle
    return largest


def _middles(cells: int, length: int, like: Tensor) -> Tensor:
    return (2 * torch.arange(cells, device=like.device) + 1) * length // (2 * cells)


def _density(vectors: Tensor, temperature: float) -> Tensor:
    """SND of each image, (B,), from (B, N, K); NaN for an image without two pixels of finite values."""
    whole = vectors.isfinite().all(2)
    unit = F.normalize(torch.where(whole[:, :, None], vectors, 0), dim=2)
    itself = torch.eye(vectors.shape[1], dtype=torch.bool, device=vectors.device)
    absent = itself | ~whole[:, None, :]
    scores = (unit @ unit.transpose(1, 2) / temperature).masked_fill(absent, -math.inf)
    log_shares = scores.log_softmax(2)
    entropy = -(log_shares.exp() * log_shares.masked_fill(absent, 0)).sum(2)
    pixels = whole.sum(1)
    density = torch.where(whole, entropy, 0).sum(1) / pixels
    return torch.where(pixels >= 2, density, math.nan)
