"""Numeric rules: precision, autocast off, sums in two float32 numbers, max over classes, seeded draws."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from stuffinstance._checks import may_read


def float_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32: half precision would lose the sum of many values."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def as_float(tensor: Tensor) -> Tensor:
    """The tensor in :func:`float_dtype`."""
    return tensor.to(float_dtype(tensor))


def cleared(maps: Tensor, mask: Tensor) -> Tensor:
    """Maps (B, C, H, W) as floats, 0 where the mask (B, H, W) is False: a NaN there then spoils no gradient."""
    return torch.where(mask[:, None], as_float(maps), 0)


def unit_length(vectors: Tensor, dim: int) -> Tensor:
    """Vectors along a dimension divided by their L2 norm; 0 stays 0, and numbers whose square overflows do no harm.

    Example:
        >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e30, 4e30]]), 1)
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000],
                [0.6000, 0.8000]])
    """
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    scaled = vectors / torch.where(largest == 0, 1, largest)
    norm = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / torch.where(norm == 0, 1, norm)


def autocast_device(tensor: Tensor) -> str:
    """The tensor's type of device; for ``meta``, which autocast does not know and which computes nothing, the CPU's."""
    kind = tensor.device.type
    return "cpu" if kind == "meta" else kind


def difference(values: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """``values - (high + low)``, exact but for one rounding in the dtype of ``values`` (float32 or float64)."""
    return (values - high.to(values.dtype)) - low.to(values.dtype)


def add_to_pair(high: Tensor, low: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """``high + low + step`` as a pair again: what the first float32 number cannot hold goes into the second.

    Knuth's two-sum; a float64 step (float64 inputs, so the device has it) is added in float64.

    Args:
        high: float32.
        low: float32, at most half a unit in the last place of ``high``.
        step: float32 or float64, same shape.

    Returns:
        The new ``(high, low)``.

    Example:
        >>> high, low = torch.tensor(1.0), torch.tensor(0.0)
        >>> for _ in range(1000):
        ...     high, low = add_to_pair(high, low, torch.tensor(1e-9))
        >>> high.item() + low.item()                                      # 1 + 1e-9 is 1 in float32
        1.00000...
    """
    if step.dtype == torch.float64:
        total = high.to(torch.float64) + low.to(torch.float64) + step
        rounded = total.to(torch.float32)
        return rounded, (total - rounded).to(torch.float32)
    total = high + step
    back = total - high
    lost = (high - (total - back)) + (step - back)
    rest = low + lost
    result = total + rest
    return result, rest - (result - total)


def pair_in(dtype: torch.dtype, high: Tensor, low: Tensor) -> Tensor:
    """The pair as one tensor of a dtype: float64 gets both numbers, others the first, which is the rounded sum."""
    return high.to(dtype) + low.to(dtype) if dtype == torch.float64 else high.to(dtype)


def on_cpu(array: NDArray[np.float64]) -> Tensor:
    """An array as a tensor on the CPU that shares its memory."""
    tensor: Tensor = from_dlpack(array)
    return tensor


def pair_on_cpu(high: Tensor, low: Tensor) -> NDArray[np.float64]:
    """The pair as a float64 array; reads from the device."""
    exact: NDArray[np.float64] = high.cpu().numpy().astype(np.float64) + low.cpu().numpy().astype(np.float64)
    return exact


_MOST_BYTES = 255


def best_class(maps: Tensor) -> tuple[Tensor, Tensor]:
    """``maps.max(1)`` of logits or probabilities (B, K, H, W): values (B, H, W) and classes (B, H, W) int64.

    Of equal values the first class is taken. On a CPU torch's own search along a dimension that is not the last one
    compares number by number; the largest value alone, a comparison with it, and the largest of K - k where it holds
    are three passes of vector instructions, over bytes for the most part, and take a half to a third of the time.
    """
    classes = maps.shape[1]
    if may_read(maps) and 0 < classes <= _MOST_BYTES and maps.is_floating_point() and maps.numel():
        values = maps.amax(1)
        if bool(values.isfinite().all()):  # NaN equals nothing, not even itself
            from_the_end = torch.arange(classes, 0, -1, dtype=torch.uint8)[:, None, None]
            first = (maps == values[:, None]).view(torch.uint8).mul_(from_the_end).amax(1)
            return values, classes - first.to(torch.int64)
    best = maps.max(1)
    return best.values, best.indices


def predicted_classes(logits: Tensor, ignore_index: int) -> Tensor:
    """The class of the largest of logits (B, K, h, w), (B, h, w) int64, without gradient; ignored where one is NaN.

    The largest is NaN there, too, and the class beside it a made-up one.
    """
    values, classes = best_class(logits.detach())
    return torch.where(values.isnan(), ignore_index, classes)


def uniform(size: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Numbers in [0, 1), float32, on ``device``; drawn where ``generator`` lives, and copied from there."""
    if generator is None:  # not passed as None, with which torch cannot compile dynamic sizes
        return torch.rand(size, device=device)
    return torch.rand(size, generator=generator, device=generator.device).to(device, non_blocking=True)
