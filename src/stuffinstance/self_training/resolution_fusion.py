"""Logits fused from two resolutions (HRDA)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance._checks import check_maps, check_same_batch, checked_size, describe
from stuffinstance._numerics import as_float, autocast_device


def fuse_resolutions(
    context_logits: Tensor,
    detail_logits: Tensor,
    attention_logits: Tensor,
    size: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
) -> Tensor:
    """Multi-resolution fusion (HRDA): logits of a context crop, refined within a detail crop by an attention.

    .. math:: \\hat y = \\begin{cases}
              \\zeta\\bigl((1 - a) \\odot y_{LR}\\bigr) + \\zeta(a) \\odot y_{HR} & \\text{in the detail crop} \\\\
              \\zeta(y_{LR}) & \\text{elsewhere} \\end{cases}, \\qquad a = \\sigma(z)

    with :math:`\\zeta` bilinear upsampling (``align_corners=False``); Hoyer et al., ECCV 2022,
    https://arxiv.org/abs/2204.13132. A context crop is seen at low resolution and a detail crop within it at high
    resolution; the attention, predicted from the context crop, says by class and place which of the two counts. To
    predict a whole image, pass the mean of overlapping windows as its details.

    HRDA trains with :math:`(1 - \\lambda)\\, CE(\\hat y, y) + \\lambda\\, CE(y_{HR}, y_{crop})` and
    :math:`\\lambda = 0.1`, with ground truth on the source and the teacher's labels on the target.

    **Paper and code.** Both set the attention to 0 outside of the detail crop before they upsample it. So their crops
    lie on whole cells of the low resolution, and within half a cell of the border the details count less on the inside,
    and the context less than fully on the outside. Here the crop is cut at the size of the result: it may lie anywhere,
    and along that border alone the result is another one (this library's choice).

    Args:
        context_logits: y_LR, (B, K, h, w).
        detail_logits: y_HR, (B, K, h', w'), at the resolution of the result.
        attention_logits: z, before the sigmoid, (B, K, h, w), or (B, 1, h, w) for one attention of all classes.
        size: (H, W) of the result.
        corner: (top, left) of the detail crop in the result; the same for all images.

    Returns:
        (B, K, H, W) float32 (float64 for float64 logits), also under autocast.

    Raises:
        TypeError: If an argument is not a tensor, or ``size`` or ``corner`` not a pair of whole numbers.
        ValueError: If shapes, dtypes or devices do not fit, or the detail crop is not within ``size``.

    Example:
        >>> context, detail = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 2, 2)
        >>> fuse_resolutions(context, detail, torch.zeros(1, 1, 1, 2), size=(2, 4), corner=(0, 1))[0, 0]
        tensor([[0.0000, 0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000, 0.0000]])
    """
    check_maps("context_logits", context_logits, channel_name="K")
    check_maps("detail_logits", detail_logits, context_logits.shape[1], "K")
    check_maps("attention_logits", attention_logits, channel_name="K")
    check_same_batch("detail_logits", detail_logits, "context_logits", context_logits)
    check_same_batch("attention_logits", attention_logits, "context_logits", context_logits)
    # Not `in`, which looks for one object among sizes that vary.
    fits = attention_logits.shape[1] == 1 or attention_logits.shape[1] == context_logits.shape[1]
    if not fits or attention_logits.shape[2:] != context_logits.shape[2:]:
        raise ValueError(
            f"attention_logits must be (B, K, h, w) = {tuple(context_logits.shape)}, as context_logits are, or "
            f"(B, 1, h, w), got {describe(attention_logits)}. Predict the attention from the context crop's features."
        )
    height, width = checked_size("size", size, "(H, W)")
    top, left = checked_size("corner", corner, "(top, left)", least=0)
    below, right = height - top - detail_logits.shape[2], width - left - detail_logits.shape[3]
    if below < 0 or right < 0:
        raise ValueError(
            f"detail_logits must lie within size = {(height, width)} from corner = {(top, left)} on, got (h, w) = "
            f"{tuple(detail_logits.shape[2:])}. Give size and corner in pixels of the detail crop's logits."
        )
    with torch.autocast(autocast_device(context_logits), enabled=False):
        context, detail = as_float(context_logits), as_float(detail_logits)
        attention = as_float(attention_logits).sigmoid()
        upsampled = partial(F.interpolate, size=(height, width), mode="bilinear", align_corners=False)
        crop = (..., slice(top, height - below), slice(left, width - right))
        change = upsampled(attention)[crop] * detail - upsampled(attention * context)[crop]
        return upsampled(context) + F.pad(change, (left, right, top, below))
