"""The type of device for which autocast is switched off around a tensor's computation."""

from torch import Tensor


def autocast_device(tensor: Tensor) -> str:
    """The tensor's type of device; for ``meta``, which autocast does not know and which computes nothing, the CPU's."""
    kind = tensor.device.type
    return "cpu" if kind == "meta" else kind
