"""Predictions and truth to mIoU, from one confusion matrix over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stuffinstance.arguments import (
    check_class_ids,
    check_label_map,
    check_positive,
    check_same_batch,
    checked_classes,
)
from stuffinstance.distributed import Sync, check_sync, sum_over_ranks


class IoU(NamedTuple):
    """mIoU as a fraction, and the IoU of every class, (K,) float64, NaN for a class that never occurs."""

    mean: float
    per_class: Tensor


class MeanIoU(nn.Module):
    """Intersection over union per class, counted over the whole data set; never an average of batch scores.

    .. math:: \\mathrm{IoU}_k = \\frac{n_{kk}}{\\sum_j n_{kj} + \\sum_j n_{jk} - n_{kk}}

    with :math:`n_{kj}` the pixels of true class *k* predicted as *j*.

    Args:
        num_classes: K.
        ignore_index: True pixels of this id are not counted.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        validate: Check class ids on a GPU too; on CPU tensors they are always checked.

    Attributes:
        confusion: Buffer (K, K) int64, rows the truth, columns the prediction.

    Example:
        >>> score = MeanIoU(num_classes=2)
        >>> score.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]))
        >>> score.compute().mean
        0.5
    """

    confusion: Tensor

    def __init__(
        self, num_classes: int, ignore_index: int = 255, *, sync: Sync = "auto", validate: bool = False
    ) -> None:
        super().__init__()
        check_positive("num_classes", num_classes)
        check_sync(sync)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.sync: Sync = sync
        self.validate = validate
        self.register_buffer("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            predictions: Class ids (B, H, W), or logits or probabilities (B, K, H, W) of the labels' size.
            labels: True class ids, (B, H, W), any integer dtype.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit, or an id is no class.
        """
        if predictions.ndim == 4 and predictions.is_floating_point():
            if predictions.shape[1] != self.num_classes:
                raise ValueError(
                    f"predictions must have K = {self.num_classes} channels, got {tuple(predictions.shape)}."
                )
            predictions = predictions.argmax(1)
        check_label_map("predictions", predictions)
        check_label_map("labels", labels)
        check_same_batch("predictions", predictions, "labels", labels)
        if predictions.shape != labels.shape:
            raise ValueError(
                f"predictions must have the labels' size (B, H, W) = {tuple(labels.shape)}, got "
                f"{tuple(predictions.shape)}. Upsample the logits to the labels, not the labels to the logits."
            )
        check_class_ids("labels", labels, self.num_classes, self.ignore_index, self.validate)
        truth = labels.to(torch.int64).reshape(-1)
        guess = predictions.to(torch.int64).reshape(-1)
        counted = (truth != self.ignore_index) & (truth >= 0) & (truth < self.num_classes)
        # Only pixels that count need a predicted class; an ignored prediction there is a mistake of the caller.
        check_class_ids("predictions", torch.where(counted, guess, 0), self.num_classes, -1, self.validate)
        cell = torch.where(counted, truth * self.num_classes + guess, self.num_classes**2)
        counts = torch.zeros(self.num_classes**2 + 1, dtype=torch.int64, device=truth.device)
        counts.scatter_add_(0, cell, torch.ones_like(cell))
        self.confusion += counts[:-1].view_as(self.confusion).to(self.confusion.device)

    def compute(self, classes: Sequence[int] | None = None) -> IoU:
        """The score so far.

        Args:
            classes: The ids to average over (all pixels still count as mistakes of any class). Default: all K.

        Returns:
            :class:`IoU`; classes that occur neither in truth nor in prediction are NaN and left out of the mean, which
            is NaN only if all are.
        """
        counts = sum_over_ranks(self.confusion, self.sync).to(torch.float64)
        hits = counts.diagonal()
        per_class = (hits / (counts.sum(0) + counts.sum(1) - hits)).cpu()
        chosen = per_class
        if classes is not None:
            ids = checked_classes("classes", classes)
            if not ids or min(ids) < 0 or max(ids) >= self.num_classes:
                raise ValueError(f"classes must be one or more ids 0..{self.num_classes - 1}, got {ids}.")
            chosen = per_class[list(ids)]
        return IoU(float(chosen.nanmean()), per_class)

    def merge(self, other: MeanIoU) -> None:
        """Add the counts of another part of the data set."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"other must count K = {self.num_classes} classes, got K = {other.num_classes}.")
        self.confusion += other.confusion.to(self.confusion.device)

    def reset(self) -> None:
        """Forget everything."""
        self.confusion.zero_()
