"""Squares of probabilities instead of entropy, so that easy pixels pull less (MaxSquare, Chen et al., ICCV 2019)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stuffinstance.arguments import checked_flag, checked_fraction
from stuffinstance.autocast_device import autocast_device
from stuffinstance.best_class import best_class
from stuffinstance.losses.pixel_mean import counted_logits, mean_over_pixels


class MaxSquareLoss(nn.Module):
    """Make the prediction of unlabelled pixels certain with a gradient linear in the probability.

    .. math:: \\mathcal{L} = -\\frac{1}{2BK} \\sum_i \\sum_{x \\in \\Omega_i} w_i(x) \\sum_c p_c(x)^2, \\qquad
              w_i(x) = \\frac{1}{\\max(n_{i, \\hat y(x)}^{\\,a} N_i^{\\,1-a},\\ 1)}

    :math:`\\hat y(x) = \\operatorname{argmax}_c p_c(x)`, :math:`n_{i,c}` pixels of image *i* are predicted *c*,
    :math:`N_i = |\\Omega_i|` pixels count, *a* is ``power``. Weights carry no gradient. Without ``image_wise`` (or with
    *a* = 0) all weights are :math:`1/N_i` and this is :math:`-\\operatorname{mean}(p^2)/2` over pixels and classes.

    Paper and released code part: the paper has no 1/K, and weights each term by its own class *c*, which has no value
    for classes that are nowhere predicted; the code weights a pixel by the class that is predicted there and takes the
    mean over classes. This is the code's, to whose scale the published weight of 0.1 belongs.

    Args:
        image_wise: Weight the classes of each image by how often they are predicted in it.
        power: *a*, 0.2 in paper and code: 0 weights all pixels alike, 1 all predicted classes.

    Raises:
        TypeError: If ``image_wise`` is not True or False, or ``power`` not a number.
        ValueError: If ``power`` is outside 0 .. 1.

    Example:
        >>> logits = torch.tensor([[[[9.0, 9.0, 0.0]], [[0.0, 0.0, 9.0]]]])     # class 0 twice, class 1 once
        >>> MaxSquareLoss(image_wise=False)(logits)
        tensor(-0.2499)
        >>> MaxSquareLoss(power=1.0)(logits)                                    # each of the two classes counts once
        tensor(-0.4999)
    """

    def __init__(self, image_wise: bool = True, power: float = 0.2) -> None:
        super().__init__()
        self.image_wise = checked_flag("image_wise", image_wise)
        self.power = checked_fraction("power", power)

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            logits: Scores of the classes, (B, K, H, W), any size; softmax is taken here.
            mask: Pixels that count, (B, H', W') bool, resized nearest. All count where it is None.

        Returns:
            A scalar of at most 0, float32 or float64. Exactly 0, still attached to ``logits``, where no pixel counts.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If a dtype, rank, batch or device does not fit.
        """
        logits, counted = counted_logits(logits, mask)
        with torch.autocast(autocast_device(logits), enabled=False):
            squares = torch.softmax(logits, 1).square().mean(1)  # (B, H, W)
            if self.image_wise:
                squares = squares * self._balance(logits.detach(), counted)
            return -0.5 * mean_over_pixels(squares, counted)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, logits: Tensor, mask: Tensor | None = None) -> Tensor: ...

    def _balance(self, logits: Tensor, counted: Tensor) -> Tensor:
        """``N w(x)``: the weights relative to those of a plain mean, (B, H, W)."""
        batch, classes = logits.shape[:2]
        predicted = best_class(logits)[1]
        image = torch.arange(batch, device=logits.device)[:, None, None]
        place = predicted + image * classes
        # Counting into a fixed size: bincount would ask a GPU how large its result is.
        none = torch.zeros(batch * classes, dtype=torch.int64, device=logits.device)
        share = none.scatter_add(0, place.flatten(), counted.flatten().to(torch.int64))
        pixels = counted.sum((1, 2))[:, None, None].to(logits.dtype)
        same = share[place].to(logits.dtype)  # pixels of the image that are predicted like this one
        return pixels / (same.pow(self.power) * pixels.pow(1 - self.power)).clamp(min=1)

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"image_wise={self.image_wise}, power={self.power}"
