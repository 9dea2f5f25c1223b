"""Label maps: nearest resize, majority of cells, correction by the prediction (SIM, Eq. 4), merging (Eq. 11)."""

import torch
from torch import Tensor

from stuffinstance._checks import (
    check_class_ids,
    check_has_pixels,
    check_label_map,
    check_maps,
    check_same_batch,
    checked_fraction,
    checked_ignore_index,
    checked_num_classes,
    checked_size,
)
from stuffinstance._numerics import predicted_classes

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
    to_height, to_width = checked_size("size", size)
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


def majority_labels(
    labels: Tensor, size: tuple[int, int], num_classes: int, *, min_fraction: float = 0.75, ignore_index: int = 255
) -> Tensor:
    """Majority labels of cells: the class that fills most of each cell of a coarser grid, else ignored.

    A pixel in row *r* of *H* and column *s* of *W* is in cell ``(r * h // H, s * w // W)``: every pixel is in one cell,
    at any size. The fraction is of all pixels of the cell, ignored ones among them: a cell that is half ignored has no
    majority of 0.75. Of equal counts the first class is taken. Along a side that is longer than the labels' own, labels
    are resized nearest first. As in DAFormer (https://arxiv.org/abs/2111.14887, for its feature distance) and SePiCo
    (https://arxiv.org/abs/2204.08808), with their 0.75.

    One pass, whatever the number of classes; memory is 40 bytes per pixel and 4 (K + 1) bytes per cell.

    Args:
        labels: Class ids, (B, H, W), any integer dtype.
        size: (h, w) of the result, such as ``features.shape[2:]``, at least 1 each.
        num_classes: K.
        min_fraction: The least fraction of a cell that its majority fills.
        ignore_index: Pixels of this id have no class; cells without a majority get it.

    Returns:
        Class ids, (B, h, w) int64.

    Raises:
        TypeError: If ``labels`` is not a tensor, or another argument is not of its kind.
        ValueError: If ``labels`` is not a 3-D integer tensor, has no pixel to take or holds other ids (looked at on a
            CPU), a size is below 1, ``min_fraction`` is outside 0 .. 1, or ``ignore_index`` is a class.

    Example:
        >>> labels = torch.tensor([[[1, 1, 0, 0], [1, 0, 1, 0]]])
        >>> majority_labels(labels, (1, 2), num_classes=2)               # 3 of 4 are class 1; 3 of 4 are class 0
        tensor([[[1, 0]]])
        >>> majority_labels(labels, (1, 1), num_classes=2)               # 4 of 8
        tensor([[[255]]])
    """
    check_label_map("labels", labels)
    to_height, to_width = checked_size("size", size)
    check_has_pixels("labels", labels)
    num_classes = checked_num_classes(num_classes)
    ignore_index = checked_ignore_index(ignore_index, num_classes)
    check_class_ids("labels", labels, num_classes, ignore_index)
    min_fraction = checked_fraction("min_fraction", min_fraction)
    return _majority_labels(labels, to_height, to_width, num_classes, min_fraction, ignore_index)


def _majority_labels(
    labels: Tensor, to_height: int, to_width: int, num_classes: int, min_fraction: float, ignore_index: int
) -> Tensor:
    labels = _resize_labels(labels, max(labels.shape[1], to_height), max(labels.shape[2], to_width)).to(torch.int64)
    batch, height, width = labels.shape
    rows = torch.arange(height, device=labels.device) * to_height // height
    columns = torch.arange(width, device=labels.device) * to_width // width
    images = torch.arange(batch, device=labels.device)[:, None, None]
    cells = (images * to_height + rows[:, None]) * to_width + columns
    known = (labels >= 0) & (labels < num_classes)
    # The last place of a cell is of pixels without a class.
    places = cells * (num_classes + 1) + torch.where(known, labels, num_classes)
    counts = torch.zeros(batch * to_height * to_width * (num_classes + 1), dtype=torch.int32, device=labels.device)
    counts = counts.scatter_add(0, places.flatten(), counts.new_ones(1).expand(places.numel()))
    counts = counts.view(batch, to_height, to_width, num_classes + 1)
    most, majority = counts[..., :-1].max(3)
    enough = (most > 0) & (most / counts.sum(3) >= min_fraction)
    return torch.where(enough, majority, ignore_index)


def correct_labels(labels: Tensor, logits: Tensor, ignore_index: int = 255) -> Tensor:
    """Correct source labels (SIM, Eq. 4): the ground truth where the prediction agrees with it, else ignored.

    .. math:: L_C = L_G \\cap L_P, \\qquad L_P = \\operatorname{argmax}_k C(f)^{(k)}

    Args:
        labels: Ground truth, (B, H, W), any integer dtype; resized nearest to (h, w).
        logits: Scores of the classes, (B, K, h, w).
        ignore_index: What a disagreeing pixel becomes; not one of the K classes.

    Returns:
        Class ids, (B, h, w) int64; a pixel with a NaN among its logits is ignored.

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
    return torch.where(ground_truth == predicted_classes(logits, ignore_index), ground_truth, ignore_index)


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
