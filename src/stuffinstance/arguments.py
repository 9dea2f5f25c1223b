"""Checks of what callers pass in: each failure names the argument, what was expected, what came and what to do.

Shapes, dtypes and devices are always checked, since they cost nothing. Values are read only where reading does
not stall a GPU: on CPU tensors outside ``torch.compile``, or where the caller asks with ``validate=True``.
"""

import operator
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

INTEGER_DTYPES = frozenset(
    {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64}
)


def describe(value: object) -> str:
    """What came where a tensor was wanted, in the words of an error message: of arrays the size, not the values."""
    return f"{_came(value)}; pass torch.from_numpy(x)" if _is_array(value) else _came(value)


def _came(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} on {value.device}"
    if _is_label_space(value):
        return type(value).__name__
    if _is_array(value):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"  # type: ignore[attr-defined]
    return f"{type(value).__name__} {value!r}"


def _is_label_space(value: object) -> bool:
    """Whether it is a ``LabelSpace``, told by what it has: checks come before label spaces in the flow of imports."""
    return hasattr(value, "things") and hasattr(value, "stuff")


def _is_array(value: object) -> bool:
    """Whether it is an array of another library; a single number of one is shown as a number."""
    return not isinstance(value, Tensor) and hasattr(value, "dtype") and bool(getattr(value, "shape", ()))


def may_read(tensor: Tensor, validate: bool = False) -> bool:
    """Whether looking at the values of ``tensor`` is allowed: free on a CPU, asked for elsewhere."""
    if torch.compiler.is_compiling() or tensor.device.type == "meta":
        return False
    return (validate or tensor.device.type == "cpu") and not _stands_for_values(tensor)


def _stands_for_values(tensor: Tensor) -> bool:
    """Whether it has no values of its own: a fake tensor (or any within a ``FakeTensorMode``), or one that a transform
    of ``torch.func`` has wrapped."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor) or detect_fake_mode(tensor) is not None


def check_label_map(name: str, labels: Tensor) -> None:
    """Require an integer tensor (B, H, W)."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be an integer tensor (B, H, W), got {describe(labels)}.")
    if labels.dtype not in INTEGER_DTYPES or labels.ndim != 3:
        raise ValueError(
            f"{name} must be an integer tensor (B, H, W), got {describe(labels)}. "
            "For one image pass labels[None]; for logits pass logits.argmax(1); for a mask pass mask.long()."
        )


def check_has_pixels(name: str, labels: Tensor) -> None:
    """Require H and W of at least 1, without which there is no nearest pixel."""
    if labels.shape[1] == 0 or labels.shape[2] == 0:
        raise ValueError(f"{name} must have H and W of at least 1, got {describe(labels)}.")


def check_maps(name: str, maps: Tensor, channels: int | None = None, channel_name: str = "D") -> None:
    """Require a floating tensor (B, channels, h, w)."""
    wanted = f"{channel_name} = {channels}" if channels is not None else channel_name
    if not isinstance(maps, Tensor):
        raise TypeError(f"{name} must be a floating-point tensor (B, {wanted}, h, w), got {describe(maps)}.")
    if not maps.is_floating_point() or maps.ndim != 4:
        if maps.is_floating_point():
            advice = f"For one image pass {name}[None]; reshape transformer tokens (B, h*w, D) to (B, D, h, w) first."
        else:
            advice = "It holds integers, as labels do, or the argmax of logits: are two arguments swapped?"
        raise ValueError(f"{name} must be a floating-point tensor (B, {wanted}, h, w), got {describe(maps)}. {advice}")
    if channels is not None and maps.shape[1] != channels:
        raise ValueError(
            f"{name} must have {wanted} channels in dimension 1, got {maps.shape[1]} ({describe(maps)}). "
            f"Pass the layout (B, {channel_name}, h, w), or build the module for {maps.shape[1]} channels."
        )
    if maps.shape[2] == 0 or maps.shape[3] == 0:
        raise ValueError(f"{name} must have h and w of at least 1, got {describe(maps)}.")


def check_on_device(name: str, tensor: Tensor, owner: str, held: Tensor) -> None:
    """Require ``tensor`` on the device of a module's state; ``owner`` is what messages call the module."""
    if tensor.device != held.device:
        raise ValueError(
            f"{name} must be on the device of the {owner}, got {tensor.device} and the {owner} on {held.device}. "
            f"Move the {owner} with .to({str(tensor.device)!r})."
        )


def check_feature_size(name: str, logits: Tensor, features: Tensor) -> None:
    """Require logits of the features' height and width."""
    if logits.shape[2:] != features.shape[2:]:
        raise ValueError(
            f"{name} must have the features' size (h, w) = {tuple(features.shape[2:])}, got {tuple(logits.shape[2:])}. "
            "Pass the features that go into the head, and the head's own output, before it is upsampled to the image."
        )


def check_same_batch(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors to agree on B and on the device."""
    if tensor.shape[0] != other.shape[0]:
        raise ValueError(
            f"{name} and {other_name} must hold the same B images, got B = {tensor.shape[0]} in {name} "
            f"{tuple(tensor.shape)} and B = {other.shape[0]} in {other_name} {tuple(other.shape)}."
        )
    if tensor.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on one device, got {tensor.device} and {other.device}. "
            f"Move one: {name}.to({other_name}.device)."
        )


def check_class_ids(name: str, labels: Tensor, num_classes: int, ignore_index: int, validate: bool = False) -> None:
    """Require every id to be 0 .. K-1 or ``ignore_index``; looks only where reading is allowed."""
    if labels.numel() == 0 or not may_read(labels, validate):
        return
    ids = labels.to(torch.int64)
    allowed = ((ids >= 0) & (ids < num_classes)) | (ids == ignore_index)
    if not bool(allowed.all()):
        strange = torch.unique(ids[~allowed])[:5].tolist()
        raise ValueError(
            f"{name} must hold class ids 0..{num_classes - 1} or the ignored id {ignore_index}, got also {strange}. "
            "Map the data set's own ids to train ids first, or ignore what has no class."
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Require finite values. Reads the tensor where that can be done: call it in ``validate=True`` mode only."""
    if not may_read(tensor, validate=True):
        return
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"{name} must be finite, got {bad} NaN or infinite values in {describe(tensor)}. "
            "Look for a diverged loss or a half-precision overflow; nothing was changed."
        )


def checked_classes(name: str, classes: Sequence[int] | Collection[int]) -> tuple[int, ...]:
    """Class ids as a tuple of distinct integers, in the order given."""
    try:
        ids = tuple(operator.index(c) for c in classes)
    except TypeError:
        hint = " Pass space.things or space.stuff." if _is_label_space(classes) else ""
        raise TypeError(f"{name} must be a sequence of integer class ids, got {_came(classes)}.{hint}") from None
    if len(set(ids)) != len(ids):
        raise ValueError(f"{name} must be distinct class ids, got {ids}.")
    return ids


def checked_ignore_index(ignore_index: int, num_classes: int) -> int:
    """An id that is no class, as an int: as a float it would make the labels that hold it floats."""
    try:
        index = operator.index(ignore_index)
    except TypeError:
        raise TypeError(f"ignore_index must be a whole number, got {_came(ignore_index)}.") from None
    if 0 <= index < num_classes:
        raise ValueError(f"ignore_index must not be a class id 0..{num_classes - 1}, got {index}.")
    return index


def check_positive(name: str, value: int) -> None:
    """Require a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
