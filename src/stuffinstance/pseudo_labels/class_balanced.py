"""Class-balanced confidence thresholds from a stream of probabilities (SIM, Eq. 9 and section 6.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stuffinstance.arguments import check_maps, check_positive, may_read
from stuffinstance.distributed import Sync, check_sync, sum_over_ranks

_SAMPLED_PIXELS = 4096


class ClassBalancedThreshold(nn.Module):
    """Per class the quantile of the confidences predicted so over a data set, capped.

    .. math:: y_k = \\min(\\operatorname{median}\\{\\max_j p_j(x) : \\operatorname{argmax}_j p_j(x) = k\\},\\ 0.9)

    Of *n* ascending confidences the one at place ``round(n * quantile)`` is taken, counted from 0 and rounded half to
    even (the released code's upper median for even *n*). A class that is never predicted gets 0.

    Confidences are counted in ``bins`` equal bins of [0, 1], so the state is K * bins integers however much streams
    through: 10 MB for 19 classes, where sorting Cityscapes' training set takes 25 to 34 GB. **Error bound:** each
    threshold lies at most ``1 / bins`` (1.5e-5) below the exact one and never above it, so no pixel is lost that the
    exact rule keeps.

    Args:
        num_classes: K.
        quantile: 0.5 is the median of paper and code.
        cap: Highest threshold, 0.9 in paper and code.
        ignore_index: What pixels below their class's threshold become.
        bins: Resolution of the counts.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        validate: Check on a GPU too that probabilities were passed; on CPU tensors that is always checked.

    Attributes:
        histogram: Buffer (K, bins) int64.

    Raises:
        ValueError: If ``quantile`` or ``cap`` is outside 0 .. 1, or a size is below 1.

    Example:
        >>> threshold = ClassBalancedThreshold(num_classes=2)
        >>> probabilities = torch.tensor([[[[0.75, 0.625, 0.875]], [[0.25, 0.375, 0.125]]]])
        >>> threshold.update(probabilities)
        >>> threshold.compute()                                               # class 1 was never predicted
        tensor([0.8750, 0.0000], dtype=torch.float64)
        >>> threshold.pseudo_labels(probabilities)
        tensor([[[255, 255,   0]]])
    """

    histogram: Tensor

    def __init__(
        self,
        num_classes: int,
        quantile: float = 0.5,
        cap: float = 0.9,
        ignore_index: int = 255,
        *,
        bins: int = 65536,
        sync: Sync = "auto",
        validate: bool = False,
    ) -> None:
        super().__init__()
        check_positive("num_classes", num_classes)
        check_positive("bins", bins)
        check_sync(sync)
        for name, value in (("quantile", quantile), ("cap", cap)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value!r}.")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index must not be a class id 0..{num_classes - 1}, got {ignore_index}.")
        self.num_classes = num_classes
        self.quantile = quantile
        self.cap = cap
        self.ignore_index = ignore_index
        self.bins = bins
        self.sync: Sync = sync
        self.validate = validate
        self.register_buffer("histogram", torch.zeros(num_classes, bins, dtype=torch.int64))

    @torch.no_grad()
    def update(self, probabilities: Tensor) -> None:
        """Count the confidences of a batch.

        Args:
            probabilities: Softmax outputs, (B, K, H, W), at the resolution at which pseudo-labels are wanted (SIM takes
                the softmax first and upsamples the probabilities).

        Raises:
            ValueError: If rank, dtype or K do not fit, or the values are not probabilities (logits, say, or NaN).
        """
        confidence, predicted = self._confidence(probabilities)
        finite = confidence.isfinite()  # where looking is not free, what is not a number is at least not counted
        # In float64, so that no confidence is rounded up into the next bin.
        place = (torch.where(finite, confidence, 0).to(torch.float64) * self.bins).to(torch.int64)
        place = place.clamp_(0, self.bins - 1) + predicted * self.bins
        # Counting into a fixed size: bincount would ask a GPU how large its result is.
        self.histogram.view(-1).scatter_add_(0, place.view(-1), finite.view(-1).to(torch.int64))

    def compute(self) -> Tensor:
        """The K thresholds so far, (K,) float64, on the histogram's device."""
        counts = sum_over_ranks(self.histogram, self.sync)
        total = counts.sum(1)
        # round() is half to even, like the released code's
        place = torch.round(total.to(torch.float64) * self.quantile).to(torch.int64)
        place = torch.minimum(place, total - 1)
        reached = counts.cumsum(1) > place[:, None]  # the first bin that holds the wanted place
        edge = reached.to(torch.uint8).argmax(1).to(torch.float64) / self.bins
        return torch.where(total > 0, edge.clamp(max=self.cap), 0.0)

    def counts(self) -> Tensor:
        """Pixels predicted as each class so far, (K,) int64."""
        return sum_over_ranks(self.histogram, self.sync).sum(1)

    @torch.no_grad()
    def pseudo_labels(self, probabilities: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """The predicted class where its confidence reaches the class's threshold, ``ignore_index`` elsewhere.

        The paper keeps :math:`S > y_k`, the released code :math:`S \\ge y_k`; this is the code's.

        Args:
            probabilities: Softmax outputs, (B, K, H, W).
            thresholds: (K,), from :meth:`compute`; computed here where it is not given. Under ``torch.distributed``
                compute them once and pass them, or call this equally often on every rank.

        Returns:
            Class ids, (B, H, W) int64.

        Raises:
            ValueError: If ``thresholds`` are not (K,), or ``probabilities`` are none.
        """
        if thresholds is None:
            thresholds = self.compute()
        if thresholds.shape != (self.num_classes,):
            raise ValueError(f"thresholds must be (K,) = ({self.num_classes},), got {tuple(thresholds.shape)}.")
        confidence, predicted = self._confidence(probabilities)
        least = thresholds.to(device=confidence.device, dtype=torch.float64)[predicted]
        return torch.where(confidence.to(torch.float64) >= least, predicted, self.ignore_index)

    def merge(self, other: ClassBalancedThreshold) -> None:
        """Add the counts of another part of the data set.

        Raises:
            ValueError: If ``other`` counts other classes or bins.
        """
        if other.histogram.shape != self.histogram.shape:
            raise ValueError(
                f"other must count (K, bins) = {tuple(self.histogram.shape)}, got {tuple(other.histogram.shape)}."
            )
        self.histogram += other.histogram.to(self.histogram.device)

    def reset(self) -> None:
        """Forget everything."""
        self.histogram.zero_()

    def _confidence(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        check_maps("probabilities", probabilities, channels=self.num_classes, channel_name="K")
        if probabilities.device != self.histogram.device:
            raise ValueError(
                f"probabilities must be on the histogram's device, got {probabilities.device} and a histogram on "
                f"{self.histogram.device}. Move the module with .to({str(probabilities.device)!r})."
            )
        if may_read(probabilities, self.validate) and probabilities.numel():
            _check_probabilities(probabilities)
        best = probabilities.max(1)
        confidence = best.values
        if may_read(confidence, self.validate) and confidence.numel():
            _check_confidences(confidence)
        return confidence if confidence.dtype == torch.float64 else confidence.float(), best.indices

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"num_classes={self.num_classes}, quantile={self.quantile}, cap={self.cap}, bins={self.bins}"


def _check_confidences(confidence: Tensor) -> None:
    """Look at the largest probability of every pixel: the cheapest look that misses no NaN."""
    lowest, highest = (float(bound) for bound in torch.aminmax(confidence.detach()))
    if not (lowest > 0 and highest <= 1 + _slack(confidence.dtype)):
        raise ValueError(
            f"probabilities must be finite and within 0..1, got a largest one per pixel from {lowest:.4g} to "
            f"{highest:.4g}. For logits pass logits.softmax(1); look for NaN in the network's output."
        )


def _slack(dtype: torch.dtype) -> float:
    """How far rounding may carry a probability, or their sum, beyond 1."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 2e-2


def _check_probabilities(probabilities: Tensor) -> None:
    """Look at a few thousand pixels: each must be finite, not negative, and sum to 1."""
    batch, _, height, width = probabilities.shape
    step = max(1, int((batch * height * width / _SAMPLED_PIXELS) ** 0.5))
    sample = probabilities.detach()[:, :, ::step, ::step].to(torch.float64)
    slack = _slack(probabilities.dtype)
    off = (sample.sum(1) - 1).abs().max()
    if not (bool(sample.min() >= -slack) and bool(off <= slack)):
        raise ValueError(
            f"probabilities must be finite, at least 0, and sum to 1 over dimension 1 (K), got values from "
            f"{float(sample.min()):.4g} to {float(sample.max()):.4g} with sums up to {float(off):.4g} away from 1. "
            "For logits pass logits.softmax(1)."
        )
