"""Weights from a file: read without running any code in it, recognized, renamed, checked tensor by tensor."""

import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from .network import PixelNormalization, SegmentationNetwork, Style

logger = logging.getLogger(__name__)

Origin = Literal["caffe", "torchvision", "transformers", "efficientnet", "timm", "checkpoint"]

_CONTAINERS = ("network", "state_dict", "model", "model_state", "net")  # where trainers put the state dict
_ADVICE = "Pass a state dict of tensors: Caffe-style DeepLab, torchvision, or a checkpoint of this trainer."


class WeightsError(ValueError):
    """A weights file that cannot be read safely or does not fit the network."""


@dataclass(frozen=True)
class FoundWeights:
    """Tensors of a file under the names of :class:`SegmentationNetwork`.

    Attributes:
        path: The file.
        origin: Whose naming the file has.
        style: How its images must be normalized.
        tensors: Renamed tensors.
        ignored: Original names that no network here has a place for, with the reason.
    """

    path: Path
    origin: Origin
    style: Style
    tensors: dict[str, Tensor]
    ignored: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsReport:
    """What loading did, by tensor name.

    Attributes:
        path: The file.
        origin: Whose naming the file had.
        loaded: Names that were set.
        missing: Names the file did not have; they keep their initial values.
        skipped: Names in the file that were left aside, with the reason.
        unexpected: Names in the file that the network does not know.
    """

    path: Path
    origin: Origin
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    skipped: dict[str, str]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.path.name} ({self.origin}): {len(self.loaded)} tensors loaded, "
            f"{len(self.missing)} missing, {len(self.skipped)} skipped, {len(self.unexpected)} unexpected"
        )


def read_weights(path: Path) -> FoundWeights:
    """Read a file and find out whose naming its weights follow."""
    tensors = {name.removeprefix("module."): value for name, value in _state_dict(path, _read(path)).items()}
    if any(name.startswith("backbone.") for name in tensors):
        return FoundWeights(path, "checkpoint", _style_of_checkpoint(tensors), tensors)
    caffe = any(name.startswith("Scale.") or re.match(r"(Scale\.)?layer[56]\.", name) for name in tensors)
    plain = {name.removeprefix("Scale."): value for name, value in tensors.items()}
    head = "layer6" if any(name.startswith("layer6.") for name in plain) else "layer5"
    renamed: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    for name, value in plain.items():
        place = _place_of(name, head)
        if place is None:
            ignored[name] = "a classifier that this network does not have"
        else:
            renamed[place] = value
    return FoundWeights(
        path, "caffe" if caffe else "torchvision", "caffe" if caffe else "torchvision", renamed, ignored
    )


def encoder_tensors(
    found: FoundWeights, prefixes: tuple[str, ...], what: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a published encoder, under names that start with one of ``prefixes``, and the others' reason.

    Raises:
        WeightsError: If there is not one.
    """
    plain = {name.removeprefix("backbone.").removeprefix("segformer."): value for name, value in found.tensors.items()}
    tensors = {name: value for name, value in plain.items() if name.startswith(prefixes)}
    if not tensors:
        raise WeightsError(
            f"{found.path}: expected weights of {what}, found none among {list(plain)[:3]}. "
            "Choose the network these weights belong to, or other weights."
        )
    skipped = {name: "a classifier that this network does not have" for name in plain if name not in tensors}
    return tensors, found.ignored | skipped


def load_weights(network: SegmentationNetwork, found: FoundWeights) -> WeightsReport:
    """Copy the tensors that fit into the network.

    The backbone must fit whole, except fc6 and fc7 of VGG16, which ImageNet weights have in another shape, and the
    all-MLP fusion, which encoders come without.
    Heads may be missing or of another number of classes.

    Raises:
        WeightsError: If a tensor of the backbone is missing or of another shape. The network stays as it was.
    """
    own = network.state_dict()
    skipped = dict(found.ignored)
    fitting: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, value in found.tensors.items():
        if name not in own:
            continue
        if own[name].shape == value.shape:
            fitting[name] = value
            continue
        reason = f"is {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the network"
        if _optional(name):
            skipped[name] = reason
        else:
            wrong.append(f"{name} {reason}")
    absent = [name for name in own if name not in found.tensors and not _optional(name)]
    unexpected = tuple(name for name in found.tensors if name not in own)
    if wrong or absent:
        raise WeightsError(_misfit(found, wrong, absent, unexpected))
    network.load_state_dict(fitting, strict=False)
    missing = tuple(name for name in own if name not in fitting)
    report = WeightsReport(found.path, found.origin, tuple(fitting), missing, skipped, unexpected)
    logger.info("%s", report)
    return report


def _optional(name: str) -> bool:
    heads = ("head.", "auxiliary_head.", "attention_head.", "normalization.")
    layers = ("backbone.fc6.", "backbone.fc7.", "backbone.fusion.")
    return name.startswith((*heads, *layers)) or name.endswith("num_batches_tracked")


def _misfit(found: FoundWeights, wrong: list[str], absent: list[str], unexpected: tuple[str, ...]) -> str:
    lines = [f"{found.path}: expected {found.origin} weights that fit the backbone."]
    if wrong:
        lines.append(f"{len(wrong)} of another shape, first: {'; '.join(wrong[:3])}.")
    if absent:
        lines.append(f"{len(absent)} missing, first: {', '.join(absent[:3])}.")
    if unexpected:
        lines.append(f"{len(unexpected)} unknown in the file, first: {', '.join(unexpected[:3])}.")
    return " ".join([*lines, "Choose the network these weights belong to, or other weights."])


def _place_of(name: str, head: str) -> str | None:
    """Name in this package's networks of a tensor named by others; None for classifiers without a place."""
    if match := re.fullmatch(r"(layer[56])\.conv2d_list\.(\d+)\.(weight|bias)", name):
        return f"head.branches.{match[2]}.{match[3]}" if match[1] == head else None
    if name.startswith(("fc.", "classifier.", "layer5.", "layer6.")):
        return None
    return f"backbone.{name}"


def _style_of_checkpoint(tensors: Mapping[str, Tensor]) -> Style:
    """A checkpoint carries its normalization: blue first means Caffe."""
    order = tensors.get("normalization.order")
    return (
        "caffe" if order is not None and torch.equal(order.cpu(), PixelNormalization("caffe").order) else "torchvision"
    )


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"{path}: expected a weights file, found none. Nothing is downloaded: place it there.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # the package has its own exception, not a subclass of a usual one
            raise _unreadable(path, error) from error
    try:
        with warnings.catch_warnings():  # an unsafe file is an error below; how it was pickled does not matter
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: expected tensors only; it holds other objects or is not a weights file. Nothing was run. "
            f"{_ADVICE} ({_first_line(error)})"
        ) from error
    except (MemoryError, PermissionError):  # the file may well be whole
        raise
    except Exception as error:  # torch.load raises many kinds for one thing: this file cannot be used
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path}: expected a complete weights file, could not read it ({_first_line(error)}). "
        "Copy it again from its source."
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a state dict, got {type(content).__name__}. {_ADVICE}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: expected tensors by name, found none among {list(content)[:3]}. {_ADVICE}")
    return tensors
