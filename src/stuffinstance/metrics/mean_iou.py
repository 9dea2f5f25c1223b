"""Mean intersection over union (mIoU) from one confusion matrix over the whole data set."""

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
    checked_num_classes,
    may_read,
    optional_ignore_index,
)
from stuffinstance._numerics import best_class, on_cpu
from stuffinstance._state import Metric
from stuffinstance.distributed import Sync, sum_over_ranks
from stuffinstance.label_space import resolved_ids

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class IoU(NamedTuple):
    """mIoU as a fraction, and the IoU of every class, (K,) float64 on the CPU, NaN for a class that never occurs."""

    mean: float
    per_class: Tensor


class MeanIoU(Metric):
    """Mean intersection over union (mIoU) of a whole data set; never an average of batch values.

    .. math:: \\mathrm{IoU}_k = \\frac{n_{kk}}{\\sum_j n_{kj} + \\sum_j n_{jk} - n_{kk}}

    with :math:`n_{kj}` the pixels of true class *k* predicted as *j*.

    **Absent classes:** a class that occurs neither in the ground truth nor in a prediction has the IoU NaN and does not
    enter the mean, which is NaN only if all of them are absent. A class that is predicted but not in the ground truth
    has the IoU 0 and enters it. **Ignored pixels** (``ignore_index`` in the ground truth) count nowhere, whatever is
    predicted there.

    Args:
        num_classes: K.
        ignore_index: True pixels of this id are not counted; not one of the K classes. None where all are counted.
        names: The K class names, so that :meth:`compute` takes them: ``space.names``.
        sync: ``"auto"`` adds the counts of all ranks in :meth:`compute`, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Check class ids on a GPU too; on CPU tensors they are always checked.

    Attributes:
        confusion: (K, K) int64, rows the ground truth, columns the prediction. As ``unclassed`` a rank's own: saved,
            but not a buffer.
        unclassed: (K,) int64, true pixels whose prediction is not a class: a miss of their class. On a CPU such a
            prediction is an error; on a GPU it is not checked.

    Raises:
        TypeError: If ``num_classes`` or ``ignore_index`` is not a whole number.
        ValueError: If ``num_classes`` is below 1, ``ignore_index`` is a class, or ``names`` are not K of them. For the
            mean over some classes alone pass them to :meth:`compute`.

    Example:
        >>> metric = MeanIoU(num_classes=2, names=("road", "car"))
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]))
        >>> metric.compute().mean, metric.compute(classes=["car"]).mean
        (0.5, 0.5)
        >>> metric(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]])).mean       # of this batch
        1.0
        >>> round(metric.compute().mean, 3)                                       # of both
        0.667
    """

    confusion: Tensor
    unclassed: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        *,
        names: Sequence[str] | None = None,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
    ) -> None:
        super().__init__(sync, group, validate_args)
        self.num_classes = checked_num_classes(num_classes)
        self.ignore_index = optional_ignore_index(ignore_index, self.num_classes)
        self.names = None if names is None else _checked_names(names, self.num_classes)
        self._hold("confusion", self.num_classes, self.num_classes)
        self._hold("unclassed", self.num_classes)

    @torch.no_grad()
    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            preds: Class ids (B, H, W), or logits or probabilities (B, K, H, W) of the target's size.
            target: True class ids, (B, H, W), any integer dtype.

        Raises:
            TypeError: If an argument is not a tensor.
            ValueError: If ranks, dtypes, sizes or devices do not fit, or an id is not a class. Nothing is counted then.
        """
        check_tensor("preds", "an integer tensor (B, H, W), or logits (B, K, H, W)", preds)
        if preds.ndim == 4 and preds.is_floating_point():
            check_maps("preds", preds, self.num_classes, "K")
            values, preds = best_class(preds)
            self._check_numbers(values)
        check_label_map("preds", preds)
        check_label_map("target", target)
        check_same_batch("preds", preds, "target", target)
        if preds.shape != target.shape:
            raise ValueError(
                f"preds must have the target's size (B, H, W) = {tuple(target.shape)}, got "
                f"{tuple(preds.shape)}. Upsample the logits to the target, not the target to the logits."
            )
        check_can_move("preds", preds, "metric", self.confusion)
        check_class_ids("target", target, self.num_classes, self.ignore_index, self.validate_args)
        ground_truth = target.to(torch.int64).reshape(-1)
        guess = preds.to(torch.int64).reshape(-1)
        counted = (ground_truth >= 0) & (ground_truth < self.num_classes)
        # What was predicted where nothing is counted does not matter.
        advice = "A prediction is a class everywhere: pseudo-labels, which lack one on some pixels, have no score."
        check_class_ids("preds", torch.where(counted, guess, 0), self.num_classes, None, self.validate_args, advice)
        columns = self.num_classes + 1  # the last one for what is not a class
        guess = torch.where((guess >= 0) & (guess < self.num_classes), guess, self.num_classes)
        cell = torch.where(counted, ground_truth * columns + guess, self.num_classes * columns)
        counts = torch.zeros(self.num_classes * columns + 1, dtype=torch.int64, device=ground_truth.device)
        counts.scatter_add_(0, cell, torch.ones_like(cell))
        table = counts[:-1].view(self.num_classes, columns).to(self.confusion.device)
        self.confusion.add_(table[:, :-1])
        self.unclassed.add_(table[:, -1])

    def _check_numbers(self, values: Tensor) -> None:
        """The largest of logits is NaN where one of them is, and the class beside it a made-up one."""
        if may_read(values, self.validate_args) and bool(values.isnan().any()):
            raise ValueError(
                f"preds must be numbers, got logits with NaN at {int(values.isnan().sum())} of {values.numel()} "
                "pixels. Look for a diverged loss or a half-precision overflow; nothing was counted."
            )

    def forward(self, preds: Tensor, target: Tensor) -> IoU:
        """Count a batch and return the value of that batch alone, on this rank.

        Args:
            preds: As for :meth:`update`.
            target: As for :meth:`update`.
        """
        value: IoU = self._of_batch(preds, target)
        return value

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, preds: Tensor, target: Tensor) -> IoU: ...

    def compute(self, classes: Sequence[int | str] | None = None) -> IoU:
        """The value so far.

        Args:
            classes: Ids, or names where the metric has ``names``, of the classes to average over (all pixels still
                count as mistakes of any class). Default: all K.

        Returns:
            :class:`IoU`; classes that occur neither in ground truth nor in prediction are NaN and not in the mean,
            which is NaN only if all are.

        Raises:
            TypeError: If ``classes`` are names and the metric has none.
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
            chosen = per_class[list(self._ids(classes))]
        occurring = chosen[~np.isnan(chosen)]
        return IoU(float(occurring.mean()) if occurring.size else math.nan, on_cpu(per_class))

    def _ids(self, classes: Sequence[int | str]) -> tuple[int, ...]:
        if self.names is not None:
            ids = resolved_ids("classes", classes, self.names)
        elif isinstance(classes, Sequence) and any(isinstance(each, str) for each in classes):
            raise TypeError(
                f"classes must be ids where the metric was made without names, got {classes!r}. Pass "
                "names=space.names to MeanIoU, or space.ids(classes) here."
            )
        else:
            ids = checked_classes("classes", classes)  # type: ignore[arg-type]  # the check rejects names
        if not ids or min(ids) < 0 or max(ids) >= self.num_classes:
            raise ValueError(f"classes must be one or more ids 0..{self.num_classes - 1}, got {ids}.")
        return ids

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

    def extra_repr(self) -> str:
        """The settings, for ``print(metric)``."""
        return f"num_classes={self.num_classes}, ignore_index={self.ignore_index}"

    def _settings(self) -> dict[str, Any]:
        return {"num_classes": int(self.num_classes)}


def _checked_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    wanted = f"K = {num_classes} distinct class names"
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence):
        raise TypeError(f"names must be {wanted}, got {type(names).__name__} {names!r}.")
    if any(not isinstance(name, str) for name in names):
        raise TypeError(f"names must be {wanted}, got {names!r}.")
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise ValueError(f"names must be {wanted}, got {len(names)}: {names!r}. Pass space.names.")
    return tuple(names)
