"""Classifier of pooled features: the agreement filter, and a segmentation head as such a classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from stuffinstance._checks import check_kind, describe

Classifier = Callable[[Tensor], Tensor]
"""Rows (N, D) to logits (N, K)."""

_CONVOLUTIONS = "For a head of 1x1 or dilated 3x3 convolutions pass stuffinstance.head_classifier(head)."


def head_classifier(module: nn.Module) -> HeadClassifier:
    """Segmentation head as a classifier of pooled features, for the agreement filter of SIM.

    Each row is passed as a feature map of one pixel, (N, D, 1, 1). There a 3x3 convolution whose padding equals its
    dilation reduces to its center tap, as in the head of DeepLab v2; a 1x1 convolution is what it always is.

    * Dropout and batch normalization run as in evaluation mode for the call, in whatever mode the head is. The mode of
      the head does not change.
    * Rows are converted to the dtype of the head's parameters.
    * The head stays the caller's: its current weights are used in each call. The result can be pickled, and a
      ``deepcopy`` of it copies the head.

    Args:
        module: Feature maps (N, D, h, w) to logits (N, K, h, w), without upsampling.

    Returns:
        A callable, rows (N, D) to logits (N, K): the ``classifier`` of banks, losses and the facade.

    Raises:
        TypeError: If ``module`` is not an ``nn.Module``.
        ValueError: In the call, if the head does not return (N, K, 1, 1).

    Example:
        >>> head = nn.Conv2d(4, 19, kernel_size=3, padding=6, dilation=6)
        >>> head_classifier(head)(torch.randn(5, 4)).shape
        torch.Size([5, 19])
    """
    check_kind("module", module, nn.Module, "an nn.Module such as model.head")
    return HeadClassifier(module)


class HeadClassifier:
    """What :func:`head_classifier` returns."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (N, D) to logits (N, K)."""
        weight = next((each for each in self.module.parameters() if each.is_floating_point()), rows)
        changed = [each for each in self.module.modules() if isinstance(each, _MODAL) and each.training]
        for each in changed:
            each.training = False
        try:
            logits: Tensor = self.module(rows[:, :, None, None].to(weight.dtype))
        finally:
            for each in changed:
                each.training = True
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[2:] != (1, 1):
            raise ValueError(
                f"module must map feature maps (N, D, 1, 1) to logits (N, K, 1, 1), got {describe(logits)}. Pass the "
                "part of the network that makes logits of the features' size, before they are upsampled."
            )
        return logits[:, :, 0, 0]

    def __repr__(self) -> str:
        """The head's class."""
        return f"head_classifier({type(self.module).__name__})"


_MODAL = (_DropoutNd, _BatchNorm)  # whose result depends on the mode


@torch.no_grad()
def agrees(rows: Tensor, classes: Tensor, classifier: Classifier, most: int) -> Tensor:
    """Agreement filter: whether the classifier's argmax for each row is the row's class.

    Args:
        rows: Pooled features, (N, D).
        classes: Their class ids, (N,) int64.
        classifier: Rows to logits. Empty places of the region tables are passed too, as rows of zeros: it must treat
            each row on its own (no batch normalization in training mode). Rows are float32 whatever the features are.
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
    """The classifier's logits; an error of the classifier becomes one that names the argument."""
    try:
        return classifier(rows)
    except torch.cuda.OutOfMemoryError:  # a RuntimeError too, but not about the rows
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        advice = "" if isinstance(classifier, HeadClassifier) else f" {_CONVOLUTIONS}"
        raise ValueError(
            f"classifier must map rows (N, D) to logits (N, K); calling it with (N, D) = {tuple(rows.shape)} failed, "
            f"got {type(error).__name__}: {str(error).rstrip('.')}.{advice}"
        ) from error
