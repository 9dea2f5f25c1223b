"""Label maps: nearest resize, correction by the prediction (SIM, Eq. 4), merge with pseudo-labels (Eq. 11)."""

import torch
from torch import Tensor

from stuffinstance._checks import (
    check_has_pixels,
    check_label_map,
    check_maps,
    check_same_batch,
    checked_ignore_index,
    checked_whole,
    describe,
)
from stuffinstance._numerics import best_class

# Of the same bytes: not every release of torch can index unsigned integers of more than one byte.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest resize of a label map, in exact integer arithmetic.

    Output pixel *i* of *n* takes input pixel ``floor(i * N / n)`` of *N*, the convention of the reference
    implementation's ``interpolate(mode="nearest")``, without that function's rounding in float32.

    Args:
        labels: Class ids, (B, H, W), any integer dtype; or a bool mask.
        size: (h, w) of the result, at least 1 each.

    Returns:
        Class ids, (B, h, w), same dtype; ``labels`` itself where the size is right already.

    Raises:
        TypeError: If ``labels`` is not a tensor, or ``size`` is not a pair of whole numbers.
        ValueError: If ``labels`` is not a 3-D integer or bool tensor or has no pixel to take, or ``size`` is below 1.

    Example:
        >>> resize_labels(torch.arange(8).view(1, 2, 4), (1, 2))
        tensor([[[0, 2]]])
    """
    check_label_map("labels", labels, masks=True)
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"size must be a pair (h, w) of whole numbers, got {describe(size)}.")
    to_height, to_width = checked_whole("size[0]", size[0], 1), checked_whole("size[1]", size[1], 1)
    if labels.shape[1:] != (to_height, to_width):
        check_has_pixels("labels", labels)
    return _resize_labels(labels, to_height, to_width)


def _resize_labels(labels: Tensor, to_height: int, to_width: int) -> Tensor:
    height, width = labels.shape[1:]
    if (height, width) == (to_height, to_width):
        return labels
    rows = torch.arange(to_height, device=labels.device) * height // to_height
    columns = torch.arange(to_width, device=labels.device) * width // to_width
    signed = labels.view(_SIGNED.get(labels.dtype, labels.dtype))
    return signed[:, rows[:, None], columns].view(labels.dtype)


def correct_labels(labels: Tensor, logits: Tensor, ignore_index: int = 255) -> Tensor:
    """Correct source labels (SIM, Eq. 4): the ground truth where the prediction agrees with it, else ignored.

    .. math:: L_C = L_G \\cap L_P, \\qquad L_P = \\operatorname{argmax}_k C(f)^{(k)}

    Args:
        labels: Ground truth, (B, H, W), any integer dtype; resized nearest to (h, w).
        logits: Scores of the classes, (B, K, h, w).
        ignore_index: What a disagreeing pixel becomes; not one of the K classes.

    Returns:
        Class ids, (B, h, w) int64.

    Raises:
        TypeError: If an argument is not a tensor, or ``ignore_index`` is not a whole number.
        ValueError: If ranks, dtypes, batch sizes or devices do not fit, or ``ignore_index`` is a class.

    Example:
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[1.0, 3.0]]]])      # predicts class 0, then class 1
        >>> correct_labels(torch.tensor([[[0, 0]]]), logits)
        tensor([[[  0, 255]]])
    """
    check_label_map("labels", labels)
    check_maps("logits", logits, channel_name="K")
    check_same_batch("labels", labels, "logits", logits)
    ignore_index = checked_ignore_index(ignore_index, logits.shape[1])
    if labels.shape[1:] != logits.shape[2:]:
        check_has_pixels("labels", labels)
    return _correct_labels(labels, logits, ignore_index)


def _correct_labels(labels: Tensor, logits: Tensor, ignore_index: int) -> Tensor:
    ground_truth = _resize_labels(labels, logits.shape[2], logits.shape[3]).to(torch.int64)
    predicted = best_class(logits.detach())[1]
    return torch.where(ground_truth == predicted, ground_truth, ignore_index)


def merge_pseudo_labels(predicted: Tensor, pseudo: Tensor, ignore_index: int = 255) -> Tensor:
    """Target labels (SIM, Eq. 11): the pseudo-label where a pixel has one, else the prediction.

    The reference implementation omits Eq. 11; here it is active whenever pseudo-labels are given.

    Args:
        predicted: Predicted class ids, (B, h, w), any integer dtype.
        pseudo: Pseudo-labels, (B, H, W), any integer dtype, ``ignore_index`` where a pixel has none; resized nearest.
        ignore_index: The id that means "no pseudo-label here".

    Returns:
        Class ids, (B, h, w) int64.

    Raises:
        TypeError: If an argument is not a tensor, or ``ignore_index`` is not a whole number.
        ValueError: If ranks, dtypes, batch sizes or devices do not fit.

    Example:
        >>> merge_pseudo_labels(torch.tensor([[[1, 2]]]), torch.tensor([[[255, 5]]]))
        tensor([[[1, 5]]])
    """
    check_label_map("predicted", predicted)
    check_label_map("pseudo", pseudo)
    check_has_pixels("predicted", predicted)
    check_has_pixels("pseudo", pseudo)
    check_same_batch("pseudo", pseudo, "predicted", predicted)
    ignore_index = checked_ignore_index(ignore_index)
    return _merge_pseudo_labels(predicted, pseudo, ignore_index)


def _merge_pseudo_labels(predicted: Tensor, pseudo: Tensor, ignore_index: int) -> Tensor:
    resized = _resize_labels(pseudo, predicted.shape[1], predicted.shape[2]).to(torch.int64)
    return torch.where(resized == ignore_index, predicted.to(torch.int64), resized)
