"""Single numbers of any library as Python's own: ints, floats, numpy's scalars and 0-d tensors."""

import operator
from typing import Any

import torch


def whole_number(value: Any) -> int | None:
    """The value as an int, or None."""
    symbolic = isinstance(value, (int, torch.SymInt))
    if symbolic:  # before anything that a compiler cannot trace
        return None if isinstance(value, bool) else value
    if not _is_scalar(value):
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # the second of a tensor that has no value
        return None


def real_number(value: Any) -> float | None:
    """The value as a number that can be compared, or None."""
    symbolic = isinstance(value, (float, int, torch.SymFloat, torch.SymInt))
    if symbolic:
        return None if isinstance(value, bool) else value
    if not _is_scalar(value) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _is_scalar(value: Any) -> bool:
    """Whether it is neither an array nor one of the numbers that are not ordered, or truth values."""
    kind = str(getattr(value, "dtype", ""))
    return not getattr(value, "shape", ()) and "bool" not in kind and "complex" not in kind
