"""Class-balanced self-training: thresholds and ratios (CBST), and the soft labels of its successor (CRST-LRENT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stuffinstance._checks import (
    check_can_move,
    check_maps,
    checked_divisor,
    checked_flag,
    checked_fraction,
    checked_whole,
)
from stuffinstance._numerics import as_float, best_class
from stuffinstance.distributed import Sync
from stuffinstance.pseudo_labels.class_balanced import HistogramRule
from stuffinstance.pseudo_labels.threshold import check_above_zero, check_probabilities, check_thresholds

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class CBSTThreshold(HistogramRule):
    """Class-balanced self-training thresholds (CBST): per class the least confidence of its most confident portion.

    .. math:: k_c = \\mathrm{conf}_c[L - 1], \\quad L = \\lfloor n_c\\, p \\rfloor, \\qquad
              \\hat y = \\operatorname*{argmax}_c \\frac{p_c}{k_c} \\ \\text{ where } \\max_c \\frac{p_c}{k_c} \\ge 1

    with :math:`\\mathrm{conf}_c` the :math:`n_c` confidences predicted as *c*, descending, counted from 0, and
    :math:`k_c = 1` where :math:`L = 0`. The portion *p* grows from round to round of self-training. Paper: Zou et al.,
    ECCV 2018, https://arxiv.org/abs/1810.07911, class-balanced self-training and the self-paced policy, which writes
    :math:`\\exp(-k_c)` for what is :math:`k_c` here.

    Unlike :class:`ClassBalancedThreshold` the label is a re-weighted argmax: a pixel may become a class that is not its
    most probable one. The paper keeps a ratio above 1, its reference implementation from 1 on; this is the code's.

    **Error bound:** each threshold lies at most ``1 / bins`` (1.5e-5) below the exact one and never above it. So no
    pixel is lost that the exact rule keeps. Labels can differ only where the largest ratio is within a factor of
    ``1 + 1 / (bins * k)`` of 1, or the largest two are that close to each other, *k* the smallest threshold.

    Args:
        num_classes: K.
        portion: p of the first round.
        step: What p grows by each round.
        max_portion: Where p stops.
        ignore_index: What pixels become that no ratio lets in.
        bins: Resolution of the counts.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check on a GPU too that probabilities were passed; on CPU tensors that is always checked.

    Attributes:
        histogram: (K, bins) int64: a rank's own counts, saved but not a buffer.

    Raises:
        ValueError: If a portion or the step is outside 0 .. 1, ``max_portion`` is below ``portion``, or a size is
            below 1.

    Example:
        >>> threshold = CBSTThreshold(num_classes=2, portion=0.5)
        >>> probabilities = torch.tensor([[[[0.75, 0.875, 0.625]], [[0.25, 0.125, 0.375]]]])
        >>> threshold.update(probabilities)
        >>> threshold.compute()                           # the best 1 of 3; class 1 was never predicted
        tensor([0.8750, 1.0000])
        >>> threshold.pseudo_labels(probabilities)
        tensor([[[255,   0, 255]]])
        >>> [round(CBSTThreshold(2).portion_at(i), 2) for i in range(8)]
        [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5]
    """

    def __init__(
        self,
        num_classes: int,
        portion: float = 0.2,
        *,
        step: float = 0.05,
        max_portion: float = 0.5,
        ignore_index: int = 255,
        bins: int = 65536,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(num_classes, ignore_index, bins, sync, validate_args, group)
        self.portion = checked_fraction("portion", portion)
        self.step = checked_fraction("step", step)
        self.max_portion = checked_fraction("max_portion", max_portion)
        if self.max_portion < self.portion:
            raise ValueError(f"max_portion must not be below portion = {portion!r}, got {max_portion!r}.")

    def portion_at(self, round_number: int) -> float:
        """The portion of a round, counted from 0: ``min(portion + round_number * step, max_portion)``.

        Raises:
            TypeError: If ``round_number`` is not a whole number.
            ValueError: If ``round_number`` is below 0.
        """
        number = checked_whole("round_number", round_number, 0)
        return min(self.portion + number * self.step, self.max_portion)

    def compute(self, round_number: int = 0) -> Tensor:
        """The K thresholds so far, (K,) float32, on the histogram's device.

        Args:
            round_number: The round of self-training, from 0, that :meth:`portion_at` gives the portion of.
        """
        counts = self._all_counts()
        total = counts.sum(1)
        chosen, _, _ = self._part_of(total, self.portion_at(round_number))
        return torch.where(chosen > 0, self._confidence_at(counts, total - chosen), 1.0)

    @torch.no_grad()
    def pseudo_labels(self, probabilities: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """The class of the largest ratio of probability to threshold where that reaches 1, else ``ignore_index``.

        Args:
            probabilities: Softmax outputs, (B, K, H, W).
            thresholds: (K,), above 0, from :meth:`compute`; computed here for the first round where not given. Under
                ``torch.distributed`` compute them once and pass them, or call this equally often on every rank.

        Returns:
            Class ids, (B, H, W) int64.

        Raises:
            ValueError: If ``thresholds`` are not (K,) or not above 0, or ``probabilities`` are not probabilities.
        """
        thresholds = self._thresholds(thresholds)
        check_above_zero("thresholds", thresholds, self.validate_args)
        self._check_device("probabilities", probabilities)
        check_probabilities("probabilities", probabilities, self.num_classes, self.validate_args)
        thresholds = thresholds.to(probabilities.device)
        weighed = as_float(probabilities)
        labels = best_class(weighed / thresholds.to(weighed.dtype)[:, None, None])[1]
        # A ratio from 1 on is a probability from the threshold on: compared so, no rounding decides.
        return self._kept(probabilities.gather(1, labels[:, None])[:, 0], labels, thresholds)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return (
            f"num_classes={self.num_classes}, portion={self.portion}, step={self.step}, "
            f"max_portion={self.max_portion}, bins={self.bins}"
        )


@torch.no_grad()
def soft_labels(
    probabilities: Tensor, thresholds: Tensor, alpha: float = 0.25, *, validate_args: bool = False
) -> tuple[Tensor, Tensor]:
    """Soft pseudo-labels of label entropy regularized self-training (CRST-LRENT), and the mask of pixels with one.

    .. math:: y_c = \\frac{(p_c / k_c)^{1/\\alpha}}{\\sum_j (p_j / k_j)^{1/\\alpha}}, \\qquad
              \\text{kept where } -\\sum_c y_c \\log p_c + \\alpha \\sum_c y_c \\log y_c < -\\sum_c y_c \\log k_c

    Put *y* into the condition and all of it cancels but
    :math:`\\sum_c (p_c / k_c)^{1/\\alpha} > 1`, which is what is computed. As :math:`\\alpha` goes to 0 labels and
    pixels become those of :class:`CBSTThreshold`. Paper: Zou et al., ICCV 2019, https://arxiv.org/abs/1908.09822, label
    regularized self-training, LRENT.

    Args:
        probabilities: Softmax outputs, (B, K, H, W).
        thresholds: k, (K,), above 0, from :meth:`CBSTThreshold.compute`.
        alpha: Weight of the entropy, 0.25 in the paper's runs: the larger, the softer.
        validate_args: Check the values on a GPU too; on a CPU they are always checked.

    Returns:
        Soft labels (B, K, H, W), float64 for float64 and float32 otherwise, of sum 1 at every pixel; and the mask
        (B, H, W) of the pixels that have one.

    Raises:
        ValueError: If ``thresholds`` are not (K,) or not above 0, ``alpha`` is not above 0, or ``probabilities`` are
            not probabilities.

    Example:
        >>> probabilities = torch.tensor([[[[0.875, 0.5]], [[0.125, 0.5]]]])
        >>> soft, mask = soft_labels(probabilities, torch.tensor([0.75, 1.0]))
        >>> soft[0, :, 0].round(decimals=3)
        tensor([[1.0000, 0.7600],
                [0.0000, 0.2400]])
        >>> mask
        tensor([[[ True, False]]])
    """
    alpha = checked_divisor("alpha", alpha)
    validate_args = checked_flag("validate_args", validate_args)
    check_maps("probabilities", probabilities, channel_name="K")
    num_classes = probabilities.shape[1]
    check_thresholds("thresholds", thresholds, num_classes)
    check_can_move("thresholds", thresholds, "tensor of probabilities", probabilities)
    check_above_zero("thresholds", thresholds, validate_args)
    check_probabilities("probabilities", probabilities, num_classes, validate_args)
    thresholds = thresholds.to(probabilities.device)
    # In logarithms a probability of 0 stays a label of 0, and no power overflows.
    logarithms = as_float(probabilities).log()
    exponent = (logarithms - thresholds.log().to(logarithms.dtype)[:, None, None]) / alpha
    return exponent.softmax(1), exponent.logsumexp(1) > 0
