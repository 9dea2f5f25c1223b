"""The agreement filter: a pooled feature counts only where the classifier gives it its own class."""

from collections.abc import Callable

import torch
from torch import Tensor

Classifier = Callable[[Tensor], Tensor]
"""Rows (N, D) to logits (N, K). On a 1×1 map dilated 3×3 convolutions reduce to their centre taps."""

_CONVOLUTIONS = (
    "For a head of 1x1 or dilated 3x3 convolutions pass lambda rows: head(rows[:, :, None, None])[:, :, 0, 0]."
)


@torch.no_grad()
def agrees(rows: Tensor, classes: Tensor, classifier: Classifier, most: int) -> Tensor:
    """Whether the classifier's first choice for each row is the row's class.

    Args:
        rows: Pooled features, (N, D).
        classes: Their class ids, (N,) int64.
        classifier: Rows to logits. Rows of regions that do not exist are passed too, as zeros: it must treat each row
            on its own (no batch normalisation in training mode). Rows are float32 whatever the features are: for a
            head in half precision pass ``lambda rows: head(rows.bfloat16())``.
        most: The largest class id that it must know.

    Returns:
        (N,) bool.

    Raises:
        ValueError: If the classifier does not take such rows or does not return logits (N, K).
    """
    if rows.shape[0] == 0:
        return torch.zeros_like(classes, dtype=torch.bool)
    # A compiler that finds an error while tracing reports it itself; a try block would break the graph.
    logits = classifier(rows) if torch.compiler.is_compiling() else _logits_of(rows, classifier)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != rows.shape[0]:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"classifier must map rows (N, D) = {tuple(rows.shape)} to logits (N, K), got {came}. {_CONVOLUTIONS}"
        )
    if logits.shape[1] <= most:
        raise ValueError(
            f"classifier must give logits (N, K) of every class up to id {most}, got K = {logits.shape[1]}. "
            "Pass the segmentation head of the same label space."
        )
    return logits.argmax(1) == classes


def _logits_of(rows: Tensor, classifier: Classifier) -> Tensor:
    """What the classifier answers; that it cannot take the rows is said in the caller's terms."""
    try:
        return classifier(rows)
    except torch.cuda.OutOfMemoryError:  # a RuntimeError too, but not about the rows
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"classifier must map rows (N, D) to logits (N, K); calling it with (N, D) = {tuple(rows.shape)} failed, "
            f"got {type(error).__name__}: {error}. {_CONVOLUTIONS}"
        ) from error
