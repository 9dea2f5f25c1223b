"""Checks of arguments: numbers, tensors, label maps, feature maps and choices; each error names the argument."""

import operator
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._guards import TracingContext, detect_fake_mode


def whole_number(value: Any) -> int | None:
    """The value as an int, or None."""
    if type(value) is int:  # of all the kinds the usual one, in a tenth of the time
        return value
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
    """Whether it is neither an array nor one of the numbers that are not ordered, or booleans."""
    kind = str(getattr(value, "dtype", ""))
    return not getattr(value, "shape", ()) and "bool" not in kind and "complex" not in kind


INTEGER_DTYPES = frozenset(
    {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64}
)
FLOATING_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
READ_ON = ("cpu",)  # devices whose values are read without validate_args
MOST_CLASSES = 2**16
_INT64 = 2**63
_SMALLEST, _LARGEST = 1e-30, sys.float_info.max


def describe(value: object) -> str:
    """What came where a tensor was wanted, in the words of an error message: of arrays the size, not the values."""
    return f"{_came(value)}; pass torch.from_numpy(x)" if _is_array(value) else _came(value)


def _came(value: object) -> str:
    if isinstance(value, Tensor):
        if value.is_nested:  # which has no shape
            return f"nested {value.dtype} on {value.device}"
        layout = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        return f"{layout}{value.dtype} {tuple(value.shape)} on {value.device}"
    if _is_label_space(value):
        return type(value).__name__
    if _is_array(value):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"  # type: ignore[attr-defined]
    if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values()):
        return f"{type(value).__name__} with {', '.join(f'{key!r}: {_came(each)}' for key, each in value.items())}"
    if isinstance(value, (tuple, list)) and any(isinstance(each, Tensor) for each in value):
        return f"{type(value).__name__} of {', '.join(map(_came, value))}"
    return f"{type(value).__name__} {value!r}"


def _is_label_space(value: object) -> bool:
    """Whether it is a ``LabelSpace``, by what it has: checks come before label spaces in the flow of imports."""
    return hasattr(value, "things") and hasattr(value, "stuff")


def _is_array(value: object) -> bool:
    """Whether it is an array of another library; a single number of one is shown as a number."""
    return not isinstance(value, Tensor) and hasattr(value, "dtype") and bool(getattr(value, "shape", ()))


def may_read(tensor: Tensor, validate_args: bool = False) -> bool:
    """Whether values of ``tensor`` may be read: on a CPU, elsewhere with ``validate_args``; never of fake tensors."""
    if torch.compiler.is_compiling() or tensor.device.type == "meta":
        return False
    if not (validate_args or tensor.device.type in READ_ON) or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return False  # a tensor that a transform of torch.func has wrapped has no values of its own
    plain = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
    if plain and torch._C._len_torch_dispatch_stack() == 0 and TracingContext.try_get() is None:
        return True  # no fake mode anywhere: the search for one takes ten times as long as the rest
    return detect_fake_mode(tensor) is None


def check_tensor(name: str, wanted: str, value: Any) -> None:
    """Require a tensor whose values lie in plain memory; ``wanted`` is what messages call what was expected."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {wanted}, got {describe(value)}.")
    if torch.compiler.is_compiling():
        return
    if value.is_nested:
        advice = f"a dense tensor: pass torch.nested.to_padded_tensor({name}, 0.0)"
    elif value.layout != torch.strided:
        advice = f"a dense tensor: pass {name}.to_dense()"
    elif value.is_quantized:
        advice = f"not quantized: pass {name}.dequantize()"
    elif value.is_complex():
        advice = f"real: pass {name}.abs() or {name}.real"
    else:
        return
    raise ValueError(f"{name} must be {wanted}, got {describe(value)}. It must be {advice}.")


def check_label_map(name: str, labels: Tensor, *, masks: bool = False) -> None:
    """Require an integer tensor (B, H, W), or with ``masks`` a bool one too."""
    wanted = "an integer or bool tensor (B, H, W)" if masks else "an integer tensor (B, H, W)"
    check_tensor(name, wanted, labels)
    is_mask = labels.dtype == torch.bool
    if (labels.dtype not in INTEGER_DTYPES and not (masks and is_mask)) or labels.ndim != 3:
        advice = f"For one image pass {name}[None]; for logits pass logits.argmax(1)."
        if labels.ndim == 4 and labels.shape[1] == 1:
            advice = f"Pass {name}[:, 0].long()."
        elif labels.ndim == 3 and labels.dtype in FLOATING_DTYPES:
            advice = f"Pass {name}.long(), or for logits of one image logits.argmax(0)[None]."
        elif is_mask and not masks:
            advice = f"For a mask whose False is class 0 and whose True is class 1 pass {name}.long()."
        raise ValueError(f"{name} must be {wanted}, got {describe(labels)}. {advice}")


def check_mask(name: str, mask: Tensor) -> None:
    """Require a bool tensor (B, H, W)."""
    wanted = "a bool tensor (B, H, W), True where a pixel counts"
    check_tensor(name, wanted, mask)
    if mask.dtype != torch.bool or mask.ndim != 3:
        raise ValueError(
            f"{name} must be {wanted}, got {describe(mask)}. "
            f"For one image pass {name}[None]; for a label map pass labels != 255; for 0 and 1 pass {name}.bool()."
        )


def check_scores(name: str, scores: Tensor) -> None:
    """Require a floating tensor (B, H, W)."""
    check_tensor(name, "a floating-point tensor (B, H, W)", scores)
    if scores.dtype not in FLOATING_DTYPES or scores.ndim != 3:
        raise ValueError(
            f"{name} must be a floating-point tensor (B, H, W), got {describe(scores)}. "
            f"For one image pass {name}[None]; of probabilities of all classes pass probabilities.amax(1)."
        )


def check_has_pixels(name: str, labels: Tensor) -> None:
    """Require H and W of at least 1, so that each output pixel has a nearest one."""
    if labels.shape[1] == 0 or labels.shape[2] == 0:
        raise ValueError(f"{name} must have H and W of at least 1, got {describe(labels)}.")


def check_maps(name: str, maps: Tensor, channels: int | None = None, channel_name: str = "D") -> None:
    """Require a floating tensor (B, channels, h, w)."""
    wanted = f"{channel_name} = {channels}" if channels is not None else channel_name
    check_tensor(name, f"a floating-point tensor (B, {wanted}, h, w)", maps)
    if maps.dtype not in FLOATING_DTYPES or maps.ndim != 4:
        if maps.dtype in FLOATING_DTYPES:
            advice = f"For one image pass {name}[None]; reshape transformer tokens (B, h*w, D) to (B, D, h, w) first."
        elif maps.is_floating_point():
            advice = f"Nothing is computed in so few bits: pass {name}.to(torch.bfloat16)."
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


def check_can_move(name: str, tensor: Tensor, owner: str, held: Tensor) -> None:
    """Require a tensor whose values can be moved to where another is; tensors on ``meta`` have none."""
    if (tensor.device.type == "meta") != (held.device.type == "meta"):
        raise ValueError(
            f"{name} must be on meta, where tensors have no values, if and only if the {owner} is there, got "
            f"{describe(tensor)} and the {owner} on {held.device}."
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


_MAP_IDS = "Map the data set's own ids to train ids first; ignore_index is the id of pixels without a class."


def check_class_ids(
    name: str,
    labels: Tensor,
    num_classes: int,
    ignore_index: int | None,
    validate_args: bool = False,
    advice: str = _MAP_IDS,
) -> None:
    """Require every id to be 0 .. K-1 or ``ignore_index``, if any; looks only where reading is allowed."""
    if labels.numel() == 0 or not may_read(labels, validate_args):
        return
    ids = labels.to(torch.int64)
    lowest, highest = torch.stack(torch.aminmax(ids)).tolist()
    if lowest >= 0 and 0 < highest <= 255 and highest == ignore_index:
        # The largest of the others, a tenth of the time of comparisons: as a byte that wraps the ignored id is 0.
        highest = int((ids.to(torch.uint8) + (256 - highest)).amax()) - (256 - highest)
    if lowest >= 0 and highest < num_classes:
        return
    allowed = (ids >= 0) & (ids < num_classes)
    if ignore_index is not None:
        allowed |= ids == ignore_index
    if not bool(allowed.all()):
        strange = torch.unique(ids[~allowed])[:5].tolist()
        ignored = "" if ignore_index is None else f" or the ignored id {ignore_index}"
        if ignore_index is not None and len(strange) == 1:
            advice = f"Where {strange[0]} marks pixels without a class, pass it as ignore_index. {advice}"
        raise ValueError(f"{name} must hold class ids 0..{num_classes - 1}{ignored}, got also {strange}. {advice}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Require finite values. Reads the tensor where that can be done: call it in ``validate_args=True`` mode only."""
    if not may_read(tensor, validate_args=True):
        return
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"{name} must be finite, got {bad} NaN or infinite values in {describe(tensor)}. "
            "Look for a diverged loss or a half-precision overflow; nothing was changed."
        )


def checked_whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number of any integer type as an int: Python's, numpy's, a 0-d integer tensor; neither bool nor float.

    A tensor is read, wherever it is.
    """
    number = whole_number(value)
    lowest, highest = -_INT64 if least is None else least, _INT64 - 1 if most is None else most
    if number is None or not lowest <= number <= highest:
        limits = "" if least is None else f" of at least {least}"
        if most is not None or (number is not None and number > highest):
            limits = f" from {lowest} to {highest}"
        error = TypeError if number is None else ValueError
        raise error(f"{name} must be a whole number{limits}, got {_came(value) if number is None else number}.")
    return number


def checked_positive(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    return checked_whole(name, value, 1)


def checked_size(name: str, size: Any, parts: str = "(h, w)", least: int = 1) -> tuple[int, int]:
    """A pair of whole numbers, which messages call ``parts``."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"{name} must be a pair {parts} of whole numbers, got {describe(size)}.")
    return checked_whole(f"{name}[0]", size[0], least), checked_whole(f"{name}[1]", size[1], least)


def checked_num_classes(num_classes: Any) -> int:
    """K: a whole number of at least 1 that tables of K and K x K entries can be made for."""
    if whole_number(num_classes) is None and _is_label_space(num_classes):  # a compiler cannot look into a number
        raise TypeError(f"num_classes must be a whole number, got {_came(num_classes)}. Pass space.num_classes.")
    return checked_whole("num_classes", num_classes, 1, MOST_CLASSES)


def checked_classes(name: str, classes: Sequence[int] | Collection[int]) -> tuple[int, ...]:
    """Class ids as a tuple of distinct integers, in the order given."""
    try:
        ids = [None] if isinstance(classes, (str, bytes)) else [whole_number(entry) for entry in classes]
    except (TypeError, RuntimeError):  # the second of a tensor that has no values
        ids = [None]
    if None in ids:
        hint = " Pass space.things or space.stuff." if _is_label_space(classes) else ""
        raise TypeError(f"{name} must be a sequence of integer class ids, got {_came(classes)}.{hint}")
    whole = tuple(number for number in ids if number is not None)
    for number in (min(0, 0, *whole), max(0, 0, *whole)):  # a compiler cannot trace their default
        checked_whole(name, number)
    if len(set(whole)) != len(whole):
        raise ValueError(f"{name} must be distinct class ids, got {whole}.")
    return whole


def checked_ignore_index(ignore_index: Any, num_classes: int = 0, classes: Collection[int] = ()) -> int:
    """The id of pixels without a class, as an int: not one of the ids 0 .. K-1 or of those that are asked for."""
    index = checked_whole("ignore_index", ignore_index)
    if 0 <= index < num_classes:
        raise ValueError(
            f"ignore_index must not be a class id 0..{num_classes - 1}, got {index}. Pass another id such as -1."
        )
    if index in classes:
        raise ValueError(
            f"ignore_index must not be one of classes = {tuple(classes)}, got {index}, which is both asked for and "
            "ignored. Pass another id, or None where nothing is ignored."
        )
    return index


def optional_ignore_index(ignore_index: Any, num_classes: int = 0, classes: Collection[int] = ()) -> int | None:
    """As :func:`checked_ignore_index`, or None where nothing is ignored."""
    return None if ignore_index is None else checked_ignore_index(ignore_index, num_classes, classes)


def checked_number(
    name: str, value: Any, wanted: str, *, above: float | None = None, least: float = -_LARGEST, most: float = _LARGEST
) -> float:
    """A finite number of any real type as a float; neither bool nor text. ``wanted`` says the range in messages."""
    number = real_number(value)
    if number is None:
        raise TypeError(f"{name} must be {wanted}, got {_came(value)}.")
    if not least <= number <= most or (above is not None and not number > above):
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")
    return number if isinstance(number, float) else float(number)


def checked_divisor(name: str, value: Any, wanted: str = "a finite number above 0") -> float:
    """A number above 0 that float32 can be divided by without overflow."""
    # A literal, not the constant: with dynamic=True a compiler takes that for a number that varies.
    return checked_number(name, value, f"{wanted} (from 1e-30 on)", least=_SMALLEST)


def checked_fraction(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    return checked_number(name, value, "between 0 and 1", least=0, most=1)


def checked_flag(name: str, value: Any) -> bool:
    """True or False: anything else is more likely a mistake than meant, ``"off"`` would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_came(value)}.")
    return bool(value)


def check_choice(name: str, value: Any, choices: Collection[str], note: str = "") -> None:
    """Require one of several names."""
    if not isinstance(value, str) or value not in choices:
        came = repr(value) if isinstance(value, str) else _came(value)
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}{note}, got {came}.")


def check_generator(generator: Any) -> None:
    """Require a source of random numbers, or None for the device's own."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {describe(generator)}.")


def check_callable(name: str, value: Any, of: str) -> None:
    """Require a callable. A class is not one: called with a tensor it would make an object."""
    if isinstance(value, type):
        raise TypeError(f"{name} must be a callable of {of}, got the class {value.__name__}: pass an object of it.")
    if not callable(value):
        raise TypeError(f"{name} must be a callable of {of}, got {describe(value)}.")


def check_kind(name: str, value: Any, kind: type, wanted: str | None = None) -> None:
    """Require an instance of a class, which messages call ``wanted``."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        came = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} must be {wanted or f'{article} {kind.__name__}'}, got {came}.")
