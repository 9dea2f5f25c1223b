"""Scores of predictions that need no labels: how certain they are, and how densely they lie together."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stuffinstance.arguments import check_maps, check_positive
from stuffinstance.distributed import Sync, check_sync, sum_over_ranks
from stuffinstance.losses.entropy import self_information
from stuffinstance.pseudo_labels.confidences import as_float, check_probabilities


class _StreamingMean(nn.Module):
    """A mean over all that was seen, in two numbers."""

    total: Tensor
    count: Tensor

    def __init__(self, sync: Sync, validate: bool) -> None:
        super().__init__()
        check_sync(sync)
        self.sync: Sync = sync
        self.validate = validate
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def _add(self, values: Tensor) -> None:
        """Count values of any shape; one that is not finite is left out, so that it cannot spoil the others."""
        counted = values.isfinite()
        self.total += torch.where(counted, values, 0).sum(dtype=torch.float64).to(self.total.device)
        self.count += counted.sum().to(self.count.device)

    def compute(self) -> float:
        """The mean so far, over all ranks; NaN where nothing was counted."""
        return float(sum_over_ranks(self.total, self.sync) / sum_over_ranks(self.count, self.sync))

    def merge(self, other: _StreamingMean) -> None:
        """Add what another part of the data set counted.

        Raises:
            ValueError: If ``other`` is another score, or has other settings.
        """
        own, others = (f"{type(each).__name__}({each.extra_repr()})" for each in (self, other))
        if own != others:
            raise ValueError(f"other must be {own}, got {others}: their means are not of the same thing.")
        self.total += other.total.to(self.total.device)
        self.count += other.count.to(self.count.device)

    def reset(self) -> None:
        """Forget everything."""
        self.total.zero_()
        self.count.zero_()


class PredictionEntropy(_StreamingMean):
    """Mean normalised entropy of the predictions of a whole data set: lower is more certain.

    .. math:: \\frac{1}{N} \\sum_x \\frac{-\\sum_c p_c(x) \\log p_c(x)}{\\log K} \\in [0, 1]

    over all N pixels, with the probabilities *p* of K classes. Every pixel counts alike; no label is asked for. A
    network that is certain of the wrong class scores well, and one trained to be certain (:class:`EntropyLoss`) scores
    better than it should. Memory: the two buffers, and in :meth:`update` a few copies of the batch's probabilities.

    Args:
        num_classes: K, of at least 2.
        sync: ``"auto"`` joins the pixels of all ranks in :meth:`compute`, ``"off"`` does not.
        validate: Check that values are probabilities on a GPU too; on CPU tensors they are always checked. Pixels that
            are not finite and were not looked for are not counted.

    Attributes:
        total: Buffer, float64, the sum of the entropies.
        count: Buffer, int64, the pixels.

    Raises:
        ValueError: If ``num_classes`` is below 2.

    Example:
        >>> score = PredictionEntropy(num_classes=2)
        >>> score.update(torch.tensor([[[[0.5, 1.0]], [[0.5, 0.0]]]]))     # knows nothing, is sure
        >>> score.compute()
        0.5
    """

    def __init__(self, num_classes: int, *, sync: Sync = "auto", validate: bool = False) -> None:
        super().__init__(sync, validate)
        check_positive("num_classes", num_classes)
        if num_classes == 1:
            raise ValueError("num_classes must be at least 2, got 1: one class has no entropy.")
        self.num_classes = num_classes

    @torch.no_grad()
    def update(self, probabilities: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: Softmax outputs, (B, K, H, W), any floating dtype; computed in single precision at least.

        Raises:
            TypeError: If ``probabilities`` are not a tensor.
            ValueError: If rank, dtype or K do not fit, or the values are not probabilities (logits, say, or NaN).
        """
        check_probabilities("probabilities", probabilities, self.num_classes, self.validate)
        self._add(self_information(as_float(probabilities)).sum(1))

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"num_classes={self.num_classes}"


class SoftNeighbourhoodDensity(_StreamingMean):
    """Soft neighbourhood density, SND (Saito et al., ICCV 2021): higher is better, by its authors' reasoning.

    .. math:: P_{ij} = \\frac{\\exp(\\langle f_i, f_j \\rangle / \\tau)}{\\sum_{k \\ne i} \\exp(\\langle f_i, f_k
              \\rangle / \\tau)}, \\qquad \\mathrm{SND} = -\\frac{1}{N} \\sum_i \\sum_{j \\ne i} P_{ij} \\log P_{ij}

    with :math:`f` the softmax outputs of N pixels divided by their Euclidean lengths; in nats, at most
    :math:`\\log(N - 1)`. Pixels of one class that are predicted alike have many near neighbours, those that the network
    is unsure of in different ways have few. A network that predicts the same everywhere scores highest of all, so look
    at more than this number.

    Paper: all target samples are neighbours of one another, none of itself. Released code, for segmentation: 100 random
    pixels of each image, the mean over images, a pixel also being its own neighbour. Here as many pixels of each image
    and the mean over images too, without a pixel's own similarity. This library's choice: the pixels are the middles of
    the cells of a grid of nearly square cells, so that nothing is random and every checkpoint is asked about the same
    pixels. Compare values of the same ``sample`` and image sizes only.

    Memory: the two buffers, and in :meth:`update` a few times B · ``sample²`` numbers, whatever the image size.

    Args:
        temperature: :math:`\\tau`, above 0. The paper's value for all data sets is 0.05.
        sample: The most pixels of an image, at least 2; the grid's rows times columns. All pixels of a smaller image.
        sync: ``"auto"`` joins the images of all ranks in :meth:`compute`, ``"off"`` does not.
        validate: Check that values are probabilities on a GPU too; on CPU tensors they are always checked. Pixels that
            are not finite and were not looked for are nobody's neighbours.

    Attributes:
        total: Buffer, float64, the sum of the images' densities.
        count: Buffer, int64, the images.

    Raises:
        ValueError: If ``temperature`` is not above 0, or ``sample`` is below 2.

    Example:
        >>> alike = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> score = SoftNeighbourhoodDensity()
        >>> score.update(alike)                      # each of three pixels has two neighbours equally near
        >>> round(score.compute(), 4) == round(math.log(2), 4)
        True
    """

    def __init__(
        self, temperature: float = 0.05, sample: int = 100, *, sync: Sync = "auto", validate: bool = False
    ) -> None:
        super().__init__(sync, validate)
        if isinstance(temperature, bool) or not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
            raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}.")
        check_positive("sample", sample)
        if sample < 2:
            raise ValueError(f"sample must be at least 2 pixels, got {sample}: one alone has no neighbour.")
        self.temperature = float(temperature)
        self.sample = sample

    @torch.no_grad()
    def update(self, probabilities: Tensor) -> None:
        """Count a batch; an image of a single pixel is left out.

        Args:
            probabilities: Softmax outputs, (B, K, H, W), any K and floating dtype; computed in single precision at
                least.

        Raises:
            TypeError: If ``probabilities`` are not a tensor.
            ValueError: If rank or dtype do not fit, or the values are not probabilities (logits, say, or NaN).
        """
        check_maps("probabilities", probabilities, channel_name="K")
        sampled = _on_grid(probabilities, self.sample)
        check_probabilities("probabilities", sampled, probabilities.shape[1], self.validate)
        with torch.autocast(probabilities.device.type, enabled=False):
            self._add(_density(as_float(sampled).flatten(2).transpose(1, 2), self.temperature))

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"temperature={self.temperature}, sample={self.sample}"


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
