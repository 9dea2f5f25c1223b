"""Warnings of input that is possible and most likely a mistake."""

import warnings

import torch
from torch import Tensor, nn

TRAIN_FEATURES = (
    "Unfreeze the last layers of the network that makes them, or train a projection (a 1x1 convolution) on top of it "
    "and pass its output here and to the segmentation head."
)
_MARK = "_warned_without_gradient"
_LEAST_SIDE, _MOST_STRETCHED = 8, 1.5


def warn_without_gradient(
    loss: str, name: str, tensor: Tensor, remedy: str, module: nn.Module | None = None, stacklevel: int = 3
) -> None:
    """Warn that a loss is computed in training from an input without gradient, so that it trains nothing.

    Silent where nobody trains: with gradient mode off, in evaluation mode, within ``torch.func``'s transforms, which
    ask for gradients in another way; and in compiled code, which cannot warn.

    Args:
        loss: What the message calls the loss.
        name: The argument.
        tensor: What came for it.
        remedy: A sentence on what to do.
        module: Warned about once; None leaves it to Python's filter, which shows a warning once per line of code.
        stacklevel: Whose line is shown; 3 is the caller's caller.
    """
    if torch.compiler.is_compiling() or tensor.requires_grad or not torch.is_grad_enabled():
        return
    if module is not None and (not module.training or getattr(module, _MARK, False)):
        return
    if torch._C._are_functorch_transforms_active():
        return
    if module is not None:
        setattr(module, _MARK, True)
    warnings.warn(
        f"{name} without a gradient came while gradient mode is on, so the {loss} trains nothing: the network is "
        f"frozen, or its output was detached. {remedy} For the value alone use torch.no_grad()"
        f"{'' if module is None else ' or .eval()'}.",
        stacklevel=stacklevel,
    )


def warn_of_other_proportions(name: str, labels: Tensor, features_name: str, features: Tensor) -> None:
    """Warn that labels (B, H, W) would be stretched to features (B, D, h, w), as where H and W are swapped.

    Padding and strides that do not divide an image change the proportions by less, except on the smallest maps, about
    which nothing is said. Compiled code cannot warn.
    """
    if torch.compiler.is_compiling() or min(features.shape[2:]) < _LEAST_SIDE:
        return
    stretched = labels.shape[1] * features.shape[3] / (labels.shape[2] * features.shape[2])
    if not 1 / _MOST_STRETCHED <= stretched <= _MOST_STRETCHED:
        warnings.warn(
            f"{name} (H, W) = {tuple(labels.shape[1:])} have other proportions than {features_name} (h, w) = "
            f"{tuple(features.shape[2:])}, to which they are resized: are H and W swapped, or is one of them a crop?",
            stacklevel=5,
        )
