"""Predictions and ground truth to mIoU, from one confusion matrix over the whole data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stuffinstance._checks import (
    check_can_move,
    check_class_ids,
    check_kind,
    check_label_map,
    check_maps,
    check_same_batch,
    check_tensor,
    checked_classes,
    checked_flag,
    checked_num_classes,
    may_read,
    optional_ignore_index,
)
from stuffinstance._numerics import best_class, on_cpu
from stuffinstance._state import StatefulModule
from stuffinstance.distributed import Sync, sum_over_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class IoU(NamedTuple):
    """mIoU as a fraction, and the IoU of every class, (K,) float64 on the CPU, NaN for a class that never occurs."""

    mean: float
    per_class: Tensor


class MeanIoU(StatefulModule):
    """Intersection over union per class, counted over the whole data set; never an average of batch scores.

    .. math:: \\mathrm{IoU}_k = \\frac{n_{kk}}{\\sum_j n_{kj} + \\sum_j n_{jk} - n_{kk}}

    with :math:`n_{kj}` the pixels of true class *k* predicted as *j*.

    Args:
        num_classes: K.
        ignore_index: True pixels of this id are not counted; not one of the K classes. None where all are counted.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check class ids on a GPU too; on CPU tensors they are always checked.

    Attributes:
        confusion: (K, K) int64, rows the ground truth, columns the prediction. As ``unclassed`` a rank's own: saved, but not
            a buffer.
        unclassed: (K,) int64, true pixels whose prediction is no class at all: a miss of their class. On a CPU
            such a prediction is an error; on a GPU it is not looked for.

    Raises:
        TypeError: If ``num_classes`` or ``ignore_index`` is not a whole number.
        ValueError: If ``num_classes`` is below 1, or ``ignore_index`` is a class. For the mean over some classes alone
            pass them to :meth:`compute`.

    Example:
        >>> score = MeanIoU(num_classes=2)
        >>> score.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]))
        >>> score.compute().mean
        0.5
    """

    confusion: Tensor
    unclassed: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        *,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(sync, group)
        num_classes = checked_num_classes(num_classes)
        self.num_classes = num_classes
        self.ignore_index = optional_ignore_index(ignore_index, num_classes)
        self.validate_args = checked_flag("validate_args", validate_args)
        self._hold("confusion", num_classes, num_classes)
        self._hold("unclassed", num_classes)

    @torch.no_grad()
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            predictions: Class ids (B, H, W), or logits or probabilities (B, K, H, W) of the labels' size.
            labels: True class ids, (B, H, W), any integer dtype.

        Raises:
            ValueError: If ranks, dtypes, sizes or devices do not fit, or an id is no class.
        """
        check_tensor("predictions", "an integer tensor (B, H, W), or logits (B, K, H, W)", predictions)
        if predictions.ndim == 4 and predictions.is_floating_point():
            check_maps("predictions", predictions, self.num_classes, "K")
            values, predictions = best_class(predictions)
            self._refuse_broken(values)
        check_label_map("predictions", predictions)
        check_label_map("labels", labels)
        check_same_batch("predictions", predictions, "labels", labels)
        if predictions.shape != labels.shape:
            raise ValueError(
                f"predictions must have the labels' size (B, H, W) = {tuple(labels.shape)}, got "
                f"{tuple(predictions.shape)}. Upsample the logits to the labels, not the labels to the logits."
            )
        check_can_move("predictions", predictions, "score", self.confusion)
        check_class_ids("labels", labels, self.num_classes, self.ignore_index, self.validate_args)
        ground_truth = labels.to(torch.int64).reshape(-1)
        guess = predictions.to(torch.int64).reshape(-1)
        counted = (ground_truth >= 0) & (ground_truth < self.num_classes)
        # What was predicted where nothing is counted does not matter.
        check_class_ids("predictions", torch.where(counted, guess, 0), self.num_classes, -1, self.validate_args)
        columns = self.num_classes + 1  # the last one for predictions that are no class
        guess = torch.where((guess >= 0) & (guess < self.num_classes), guess, self.num_classes)
        cell = torch.where(counted, ground_truth * columns + guess, self.num_classes * columns)
        counts = torch.zeros(self.num_classes * columns + 1, dtype=torch.int64, device=ground_truth.device)
        counts.scatter_add_(0, cell, torch.ones_like(cell))
        table = counts[:-1].view(self.num_classes, columns).to(self.confusion.device)
        self.confusion.add_(table[:, :-1])
        self.unclassed.add_(table[:, -1])

    def _refuse_broken(self, values: Tensor) -> None:
        """The largest of logits is NaN where one of them is, and the class beside it a made-up one."""
        if may_read(values, self.validate_args) and bool(values.isnan().any()):
            raise ValueError(
                f"predictions must be numbers, got logits with NaN at {int(values.isnan().sum())} of {values.numel()} "
                "pixels. Look for a diverged loss or a half-precision overflow; nothing was counted."
            )

    def compute(self, classes: Sequence[int] | None = None) -> IoU:
        """The score so far.

        Args:
            classes: The ids to average over (all pixels still count as mistakes of any class). Default: all K.

        Returns:
            :class:`IoU`; classes that occur neither in ground truth nor in prediction are NaN and left out of the mean, which
            is NaN only if all are.

        Raises:
            ValueError: If ``classes`` are not one or more distinct ids of 0 .. K-1.
        """
        table = torch.cat([self.confusion, self.unclassed[:, None]], dim=1)
        counts = sum_over_ranks(table, self.sync, self.group).cpu().numpy()
        hits = counts.diagonal()
        union = counts[:, :-1].sum(0) + counts.sum(1) - hits
        per_class = np.full(self.num_classes, np.nan)
        np.divide(hits, union, out=per_class, where=union > 0)
        chosen = per_class
        if classes is not None:
            ids = checked_classes("classes", classes)
            if not ids or min(ids) < 0 or max(ids) >= self.num_classes:
                raise ValueError(f"classes must be one or more ids 0..{self.num_classes - 1}, got {ids}.")
            chosen = per_class[list(ids)]
        occurring = chosen[~np.isnan(chosen)]
        return IoU(float(occurring.mean()) if occurring.size else math.nan, on_cpu(per_class))

    def merge(self, other: MeanIoU) -> None:
        """Add the counts of another part of the data set.

        Raises:
            ValueError: If ``other`` counts another number of classes.
        """
        check_kind("other", other, MeanIoU)
        if other.num_classes != self.num_classes:
            raise ValueError(f"other must count K = {self.num_classes} classes, got K = {other.num_classes}.")
        self.confusion.add_(other.confusion.to(self.confusion.device))
        self.unclassed.add_(other.unclassed.to(self.unclassed.device))

    def _settings(self) -> dict[str, Any]:
        return {"num_classes": int(self.num_classes)}
