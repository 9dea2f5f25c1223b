"""Entropy minimization losses on unlabeled logits."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stuffinstance._checks import (
    check_has_pixels,
    check_maps,
    check_mask,
    check_same_batch,
    checked_flag,
    checked_fraction,
    may_read,
)
from stuffinstance._numerics import as_float, autocast_device, best_class, cleared
from stuffinstance.label_maps import _resize_labels
from stuffinstance.losses.reduction import Reduction, checked_reduction, mean_over_pixels


def masked_logits(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Masked logits in single precision or better, 0 where they do not count, and the mask at their size.

    Args:
        logits: (B, K, H, W).
        mask: Pixels that count, (B, H', W') bool, resized nearest; all where it is None.

    Returns:
        Logits (B, K, H, W), float64 if they were and float32 else, and the mask (B, H, W) bool.

    Raises:
        TypeError: If an argument is not a tensor.
        ValueError: If a dtype, rank, batch or device does not fit.

    Example:
        >>> logits, mask = masked_logits(torch.ones(1, 2, 1, 2), torch.tensor([[[True, False]]]))
        >>> logits[0, 0], mask
        (tensor([[1., 0.]]), tensor([[[ True, False]]]))
    """
    check_maps("logits", logits, channel_name="K")
    if mask is None:
        return as_float(logits), torch.ones_like(logits[:, 0], dtype=torch.bool)
    check_mask("mask", mask)
    check_has_pixels("mask", mask)
    check_same_batch("mask", mask, "logits", logits)
    mask = _resize_labels(mask, logits.shape[2], logits.shape[3])
    return cleared(logits, mask), mask


def entropy_map(probabilities: Tensor) -> Tensor:
    """Weighted self-information map (ADVENT, Eq. 2): each class's part of the entropy of each pixel.

    .. math:: I_c = -\\frac{p_c \\log_2 p_c}{\\log_2 K}, \\qquad \\sum_c I_c = E \\in [0, 1]

    The paper (https://arxiv.org/abs/1811.12833) gives the unscaled map to its discriminator, the reference
    implementation the scaled one, as here. Where :math:`p_c = 0` the value is exactly 0, and the gradient is 0 where
    the formula's is infinite; the code adds 1e-30 under the logarithm instead.

    Args:
        probabilities: Softmax outputs, (B, K, H, W), K of at least 2. On a CPU their range is checked.

    Returns:
        (B, K, H, W), dtype of ``probabilities``; computed in single precision at least.

    Raises:
        TypeError: If ``probabilities`` are not a tensor.
        ValueError: If rank, dtype or K do not fit, or values are outside 0 .. 1 (logits, say).

    Example:
        >>> entropy_map(torch.tensor([0.5, 0.25, 0.25, 0.0]).view(1, 4, 1, 1)).flatten()
        tensor([0.2500, 0.2500, 0.2500, 0.0000])
    """
    check_maps("probabilities", probabilities, channel_name="K")
    _check_classes("probabilities", probabilities)
    if may_read(probabilities) and probabilities.numel():
        lowest, highest = (float(bound) for bound in torch.aminmax(probabilities.detach()))
        if lowest < 0 or highest > 1 + 1e-2:  # rounding may carry a half-precision probability a little beyond 1
            raise ValueError(
                f"probabilities must be within 0..1, got values from {lowest:.4g} to {highest:.4g}. "
                "For logits pass logits.softmax(1)."
            )
    return self_information(probabilities)


def self_information(probabilities: Tensor) -> Tensor:
    """:func:`entropy_map` of probabilities that are known to be such.

    Example:
        >>> self_information(torch.full((1, 2, 1, 1), 0.5)).flatten()
        tensor([0.5000, 0.5000])
    """
    exact = as_float(probabilities)
    # At 0 the logarithm of 1 is taken, whose value and slope are both 0. The 0 in front leaves a zero without a sign.
    information = 0 - exact * torch.where(exact > 0, exact, 1).log2()
    return (information / math.log2(probabilities.shape[1])).to(probabilities.dtype)


class EntropyLoss(nn.Module):
    """Entropy minimization loss of unlabeled pixels (ADVENT's MinEnt, Vu et al., CVPR 2019, Eq. 3).

    .. math:: \\mathcal{L}_{ent} = \\frac{1}{B} \\sum_i \\frac{1}{|\\Omega_i|} \\sum_{x \\in \\Omega_i} \\sum_c I_c(x)

    over the pixels :math:`\\Omega_i` of image *i* that count, with :math:`I_c` of :func:`entropy_map`. The mean is over
    pixels: classes are summed, and their number is only in the scale of :math:`I_c`. The paper
    (https://arxiv.org/abs/1811.12833) sums over pixels; the reference implementation takes the mean over all pixels of
    the batch, which equals this one as long as every pixel counts. With a mask the mean over images of each image's
    mean is this library's choice, so that a batch equals the mean of its single images.

    Args:
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        ValueError: If ``reduction`` is unknown.

    Example:
        >>> EntropyLoss()(torch.zeros(1, 4, 2, 2))                             # a uniform prediction
        tensor(1.)
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            logits: Scores of the classes, (B, K, H, W), any size; softmax is taken here.
            mask: Pixels that count, (B, H', W') bool, resized nearest: ``pseudo != 255`` for those with a pseudo-label,
                say. All count where it is None.

        Returns:
            A scalar within 0 .. 1, or (B,) for ``reduction="none"``; float32 or float64. Exactly 0, still attached to
            ``logits``, where no pixel counts.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If a dtype, rank, batch or device does not fit, or K is below 2.
        """
        logits, mask = masked_logits(logits, mask)
        _check_classes("logits", logits)
        with torch.autocast(autocast_device(logits), enabled=False):
            return mean_over_pixels(self_information(torch.softmax(logits, 1)).sum(1), mask, self.reduction)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, logits: Tensor, mask: Tensor | None = None) -> Tensor: ...

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"reduction={self.reduction!r}"


def _check_classes(name: str, maps: Tensor) -> None:
    if maps.shape[1] < 2:
        raise ValueError(
            f"{name} must have K of at least 2 in dimension 1, got {tuple(maps.shape)}: one class has no entropy. "
            "For a sigmoid's score x make two classes first, with the logits torch.cat((torch.zeros_like(x), x), 1)."
        )


class MaxSquareLoss(nn.Module):
    """Maximum squares loss (MaxSquare, Chen et al., ICCV 2019), whose gradient is linear in the probability.

    .. math:: \\mathcal{L} = -\\frac{1}{2BK} \\sum_i \\sum_{x \\in \\Omega_i} w_i(x) \\sum_c p_c(x)^2, \\qquad
              w_i(x) = \\frac{1}{\\max(n_{i, \\hat y(x)}^{\\,a} N_i^{\\,1-a},\\ 1)}

    :math:`\\hat y(x) = \\operatorname{argmax}_c p_c(x)`, :math:`n_{i,c}` pixels of image *i* are predicted *c*,
    :math:`N_i = |\\Omega_i|` pixels count, *a* is ``alpha``. Weights carry no gradient. Without ``image_wise`` (or with
    *a* = 0) all weights are :math:`1/N_i` and this is :math:`-\\operatorname{mean}(p^2)/2` over pixels and classes.

    Paper (https://arxiv.org/abs/1909.13589) and reference implementation differ: the paper has no 1/K, and weights each
    term by its own class *c*, which has no value for classes that are nowhere predicted; the code weights a pixel by
    the class that is predicted there and takes the mean over classes. This is the code's, to whose scale the published
    weight of 0.1 belongs.

    Args:
        image_wise: Weight the classes of each image by how often they are predicted in it.
        alpha: *a*, 0.2 in paper and code: 0 weights all pixels alike, 1 all predicted classes.
        reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image, (B,).

    Raises:
        TypeError: If ``image_wise`` is not True or False, or ``alpha`` not a number.
        ValueError: If ``alpha`` is outside 0 .. 1, or ``reduction`` is unknown.

    Example:
        >>> logits = torch.tensor([[[[9.0, 9.0, 0.0]], [[0.0, 0.0, 9.0]]]])     # class 0 twice, class 1 once
        >>> MaxSquareLoss(image_wise=False)(logits)
        tensor(-0.2499)
        >>> MaxSquareLoss(alpha=1.0)(logits)                                    # each of the two classes counts once
        tensor(-0.4999)
    """

    def __init__(self, image_wise: bool = True, alpha: float = 0.2, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = checked_reduction(reduction)
        self.image_wise = checked_flag("image_wise", image_wise)
        self.alpha = checked_fraction("alpha", alpha)

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            logits: Scores of the classes, (B, K, H, W), any size; softmax is taken here.
            mask: Pixels that count, (B, H', W') bool, resized nearest. All count where it is None.

        Returns:
            A scalar of at most 0, or (B,) for ``reduction="none"``; float32 or float64. Exactly 0, still attached to
            ``logits``, where no pixel counts.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If a dtype, rank, batch or device does not fit.
        """
        logits, mask = masked_logits(logits, mask)
        with torch.autocast(autocast_device(logits), enabled=False):
            squares = torch.softmax(logits, 1).square().mean(1)  # (B, H, W)
            if self.image_wise:
                squares = squares * self._balance(logits.detach(), mask)
            return -0.5 * mean_over_pixels(squares, mask, self.reduction)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, logits: Tensor, mask: Tensor | None = None) -> Tensor: ...

    def _balance(self, logits: Tensor, mask: Tensor) -> Tensor:
        """``N w(x)``: the weights relative to those of a plain mean, (B, H, W)."""
        batch, classes = logits.shape[:2]
        predicted = best_class(logits)[1]
        image = torch.arange(batch, device=logits.device)[:, None, None]
        place = predicted + image * classes
        # Counting into a fixed size: bincount would synchronize to learn the size of its result.
        none = torch.zeros(batch * classes, dtype=torch.int64, device=logits.device)
        share = none.scatter_add(0, place.flatten(), mask.flatten().to(torch.int64))
        pixels = mask.sum((1, 2))[:, None, None].to(logits.dtype)
        same = share[place].to(logits.dtype)  # pixels of the image that are predicted like this one
        return pixels / (same.pow(self.alpha) * pixels.pow(1 - self.alpha)).clamp(min=1)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"image_wise={self.image_wise}, alpha={self.alpha}, reduction={self.reduction!r}"
