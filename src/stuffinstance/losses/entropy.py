"""The entropy of a prediction, class by class as a map and over all pixels as a loss (ADVENT, Vu et al., CVPR 2019)."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stuffinstance.arguments import check_maps, may_read
from stuffinstance.autocast_device import autocast_device
from stuffinstance.losses.pixel_mean import counted_logits, mean_over_pixels


def entropy_map(probabilities: Tensor) -> Tensor:
    """Each class's part of the entropy of each pixel, ADVENT's weighted self-information.

    .. math:: I_c = -\\frac{p_c \\log_2 p_c}{\\log_2 K}, \\qquad \\sum_c I_c = E \\in [0, 1] \\quad \\text{(Eq. 2)}

    The paper gives the unscaled map to its discriminator, the released code the scaled one; this is the code's.
    Where :math:`p_c = 0` the value is exactly 0, and the gradient is 0 where the formula's is infinite; the code adds
    1e-30 under the logarithm instead.

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
    exact = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    # At 0 the logarithm of 1 is taken, whose value and slope are both 0. The 0 in front leaves a zero without a sign.
    information = 0 - exact * torch.where(exact > 0, exact, 1).log2()
    return (information / math.log2(probabilities.shape[1])).to(probabilities.dtype)


class EntropyLoss(nn.Module):
    """Make the prediction of unlabelled pixels certain: ADVENT's direct entropy minimisation, MinEnt.

    .. math:: \\mathcal{L}_{ent} = \\frac{1}{B} \\sum_i \\frac{1}{|\\Omega_i|} \\sum_{x \\in \\Omega_i} \\sum_c I_c(x)
              \\quad \\text{(Eq. 3)}

    over the pixels :math:`\\Omega_i` of image *i* that count, with :math:`I_c` of :func:`entropy_map`. The mean is over
    pixels: classes are summed, and their number is only in the scale of :math:`I_c`. Paper: the sum over pixels.
    Released code: the mean over all pixels of the batch, the same as here as long as every pixel counts. With a mask
    the mean over images of each image's mean is this library's choice, so that a batch equals the mean of its single
    images.

    Example:
        >>> EntropyLoss()(torch.zeros(1, 4, 2, 2))                             # knows nothing
        tensor(1.)
    """

    def __init__(self) -> None:  # takes no options, which nn.Module's own signature does not say
        super().__init__()

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            logits: Scores of the classes, (B, K, H, W), any size; softmax is taken here.
            mask: Pixels that count, (B, H', W') bool, resized nearest: ``pseudo != 255`` for those with a pseudo-label,
                say. All count where it is None.

        Returns:
            A scalar within 0 .. 1, float32 or float64. Exactly 0, still attached to ``logits``, where no pixel counts.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If a dtype, rank, batch or device does not fit, or K is below 2.
        """
        logits, counted = counted_logits(logits, mask)
        _check_classes("logits", logits)
        with torch.autocast(autocast_device(logits), enabled=False):
            return mean_over_pixels(self_information(torch.softmax(logits, 1)).sum(1), counted)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, logits: Tensor, mask: Tensor | None = None) -> Tensor: ...


def _check_classes(name: str, maps: Tensor) -> None:
    if maps.shape[1] < 2:
        raise ValueError(
            f"{name} must have K of at least 2 in dimension 1, got {tuple(maps.shape)}: one class has no entropy. "
            "For a sigmoid's score x make two classes first, with the logits torch.cat((torch.zeros_like(x), x), 1)."
        )
