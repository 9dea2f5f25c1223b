"""Plain vision transformers (DINOv2, DINOv3, BEiT) with a linear, a projected or an all-MLP head.

The transformer is a backbone of the package ``transformers``, built from its configuration; nothing is ever downloaded.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stuffinstance as si

from .all_mlp import AllMlpFusion, FusedNetwork
from .network import DilatedHead, SegmentationNetwork, Style, check_whole
from .padding import cropped, padded
from .small import Norm
from .transformers_weights import of_transformers, read_by_transformers
from .weights import FoundWeights, WeightsError

Head = Literal["linear", "projection", "all_mlp"]

_WANTED = (
    "config must be the configuration of a plain vision transformer (DINOv2, DINOv3, BEiT) as transformers writes it "
    "in config.json: its folder, or its content by name"
)
_FUSED_LAYERS = 4


class VitBackbone(nn.Module):
    """The transformer's maps of some layers, and what makes features of them.

    Images are padded to whole patches at the right and the bottom, and the maps are cropped back: a map covers the
    image and nothing beside it. A frozen transformer is never in training mode and computes without gradient. The mask
    token is never trained: it is the pretrained one, or 0 as random weights begin with.
    """

    def __init__(self, encoder: Any, fusion: AllMlpFusion | None, upsample: int, freeze: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion = fusion
        self.patch = int(encoder.config.patch_size)
        self.upsample = upsample
        self.freeze = freeze
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(not freeze and not name.endswith("mask_token"))

    def train(self, mode: bool = True) -> VitBackbone:
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def stages(self, x: Tensor) -> Sequence[Tensor]:
        """Maps (B, C, h, w) of the chosen layers, h and w the number of patches that the image takes, rounded up."""
        whole = padded(x, self.patch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            maps: Sequence[Tensor] = self.encoder(whole).feature_maps
        return [cropped(each, x.shape[2:], whole.shape[2:]) for each in maps]

    @contextmanager
    def masked_tokens(self, ratio: float) -> Iterator[None]:
        """Within the block random patches are the mask token, which the transformer itself puts in as in pretraining.

        ``ratio`` is the probability of a patch to be masked, by the default generator of the images' device.
        """

        def mask(embeddings: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            images: Tensor = args[0]  # of whole patches
            patches = images.new_zeros(len(images), images.shape[2] * images.shape[3] // self.patch**2, 1)
            masked = si.random_token_mask(patches, patches.new_ones(1), ratio)
            return args, {**kwargs, "bool_masked_pos": masked[..., 0].bool()}

        handle = cast(nn.Module, _masking(self.encoder)).register_forward_pre_hook(mask, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def fused(self, stages: Sequence[Tensor]) -> Tensor:
        """The features (B, D, h, w)."""
        last = stages[-1]
        size = (self.upsample * last.shape[2], self.upsample * last.shape[3])
        if self.fusion is not None:
            fused: Tensor = self.fusion(stages, size)
            return fused
        return last if self.upsample == 1 else F.interpolate(last, size, mode="bilinear", align_corners=False)


class VitNetwork(FusedNetwork):
    """A network on a :class:`VitBackbone`, whose first layers learn more slowly where ``layer_decay`` is below 1."""

    layer_decay = 1.0

    def parameter_groups(self, lr: float, head_lr_mult: float = 10.0) -> list[dict[str, Any]]:
        """The transformer at ``lr`` times ``layer_decay`` to the power of the layers above, what is new faster.

        As BEiT counts them (https://arxiv.org/abs/2106.08254): the normalization behind the last layer is at ``lr``,
        the last layer at ``lr * layer_decay``, the embeddings one below the first layer.
        """
        old, new = super().parameter_groups(lr, head_lr_mult)
        if self.layer_decay == 1:
            return [old, new]
        encoder = cast(VitBackbone, self.backbone).encoder
        depth = encoder.config.num_hidden_layers
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in encoder.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(_layers_above(name, depth), []).append(parameter)
        ordered = sorted(groups.items())
        return [*({"params": each, "lr": lr * self.layer_decay**above} for above, each in ordered), new]


def _layers_above(name: str, depth: int) -> int:
    """How often the rate of a parameter is decayed."""
    if match := re.search(r"(?:^|\.)layers?\.(\d+)\.", name):
        return depth - int(match[1])
    return depth + 1 if "embeddings." in name else 0


def vit(
    num_classes: int,
    *,
    config: Mapping[str, Any] | str | None = None,
    head: Head = "all_mlp",
    fused_dim: int = 256,
    stride: int | None = None,
    norm: Norm = "batch",
    freeze: bool = False,
    layer_decay: float = 1.0,
    style: Style | None = None,
) -> SegmentationNetwork:
    """A plain vision transformer of the package ``transformers`` with a linear classifier on one of three features.

    Args:
        num_classes: Channels K of the logits.
        config: The transformer's configuration: a folder with ``config.json``, or its content by name. In a recipe it
            is that of ``network.weights`` where it is omitted.
        head: ``"linear"``: the features are the last layer's. ``"projection"``: a trained projection of these.
            ``"all_mlp"``: SegFormer's fusion of four layers, evenly spaced.
        fused_dim: Channels D of the features; with ``"linear"`` they are the transformer's.
        stride: Of the features; a divisor of the patch, by default the patch itself. Matching sees smaller regions at
            a smaller stride.
        norm: Of projection or fusion, ``"batch"`` or ``"group"``.
        freeze: Keep the transformer as it is. The features of the head ``"linear"`` then get no gradient, so that
            matching needs the ``"projection"``.
        layer_decay: Each layer's rate relative to that of the layer above it, 1 for one rate; 0.65 to 0.9 is usual.
        style: Normalization of the images, by default that of the published weights: ``"symmetric"`` for BEiT, else
            ``"torchvision"``.

    Raises:
        ModuleNotFoundError: If ``transformers`` is not installed.
        ValueError: If the configuration is not one of a plain vision transformer, or another option does not fit.
    """
    if head not in get_args(Head):
        raise ValueError(f"head must be one of {', '.join(map(repr, get_args(Head)))}, got {head!r}.")
    check_whole("fused_dim", fused_dim, least=1)
    if not isinstance(freeze, bool):
        raise ValueError(f"freeze must be true or false, got {freeze!r}.")
    if isinstance(layer_decay, bool) or not isinstance(layer_decay, int | float) or not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be a number above 0 and at most 1, got {layer_decay!r}.")
    content = read_config(config) if isinstance(config, str | Path) else config
    encoder = _encoder(content, _FUSED_LAYERS if head == "all_mlp" else 1)
    patch = encoder.config.patch_size
    stride = patch if stride is None else stride
    check_whole("stride", stride, least=1)
    if patch % stride:
        divisors = [each for each in range(1, patch + 1) if patch % each == 0]
        raise ValueError(f"stride must divide the patch of {patch} pixels, one of {divisors}, got {stride}.")
    if freeze and head == "linear":
        warnings.warn(
            "network vit: the transformer is frozen and the head is linear, so the features get no gradient and "
            "matching trains nothing. Set network.options.head=projection, or network.options.freeze=false.",
            stacklevel=2,
        )
    channels = list(encoder.channels)
    fusion = None if head == "linear" else AllMlpFusion(channels, fused_dim, norm)
    feature_dim = channels[-1] if fusion is None else fused_dim
    network = VitNetwork(
        VitBackbone(encoder, fusion, patch // stride, freeze),  # type: ignore[arg-type]
        DilatedHead(feature_dim, num_classes, dilations=(0,)),
        feature_dim=feature_dim,
        num_classes=num_classes,
        stride=stride,
        style=style or ("symmetric" if encoder.config.model_type == "beit" else "torchvision"),
    )
    network.layer_decay = float(layer_decay)
    return network


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of ``config.json`` in a folder as ``transformers`` writes them.

    Raises:
        ValueError: If there is not one, or it cannot be read.
    """
    file = Path(folder) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{_WANTED}; there is no {file}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{_WANTED}; {file} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{_WANTED}; {file} holds a {type(content).__name__}.")
    return content


def _encoder(content: Any, layers: int) -> Any:
    """The transformer with random weights, showing its last layer or several, evenly spaced."""
    if not isinstance(content, Mapping) or not isinstance(content.get("model_type"), str):
        raise ValueError(f"{_WANTED}, with its model_type; got {content!r}.")
    transformers = of_transformers("vit")
    kind, settings = (
        content["model_type"],
        {key: content[key] for key in content.keys() - {"model_type", "out_features"}},
    )
    try:
        depth = transformers.AutoConfig.for_model(kind, **settings).num_hidden_layers
        shown = sorted({depth * place // layers for place in range(1, layers + 1)} - {0})
        config = transformers.AutoConfig.for_model(kind, **{**settings, "out_indices": shown})
        config.reshape_hidden_states = True
        encoder = transformers.AutoBackbone.from_config(config)
        plain = isinstance(config.patch_size, int) and {*encoder.channels} == {config.hidden_size}
    except Exception as error:  # of many kinds, one for each setting that does not fit
        raise ValueError(f"{_WANTED}; {kind!r} with these settings is not one ({error}).") from error
    if not plain:
        raise ValueError(f"{_WANTED}; the maps of {kind!r} are of several sizes.")
    return encoder


def has_mask_token(config: Mapping[str, Any]) -> bool:
    """Whether the transformer of a configuration has a mask token.

    Raises:
        ValueError: If it is not the configuration of a plain vision transformer.
    """
    with torch.device("meta"):
        return _masking(_encoder(config, 1)) is not None


def _masking(encoder: nn.Module) -> nn.Module | None:
    """The embeddings that put a mask token in; None without one."""
    return next((each for each in encoder.modules() if isinstance(getattr(each, "mask_token", None), Tensor)), None)


def as_vit_weights(found: FoundWeights, network: SegmentationNetwork) -> FoundWeights:
    """Weights of a published transformer under the names of this network's; a checkpoint of this trainer stays.

    Tensors for which a backbone has no place (heads, poolers) are skipped.

    Raises:
        WeightsError: If one of the transformer is missing or of another shape.
    """
    if found.origin == "checkpoint":
        return found
    encoder = network.backbone.encoder
    plain = {name.removeprefix("backbone."): value for name, value in found.tensors.items()}
    loaded, faults, unknown = read_by_transformers(type(encoder), encoder.config, plain)
    faults = [each for each in faults if "mask_token is missing" not in each]
    if faults:
        raise WeightsError(
            f"{found.path}: expected a {encoder.config.model_type} of {encoder.config.num_hidden_layers} layers and "
            f"{encoder.config.hidden_size} channels; {len(faults)} tensors differ, first: {'; '.join(faults[:3])}. "
            "Give the configuration that belongs to the weights: network.options.config."
        )
    skipped = found.ignored | dict.fromkeys(unknown, "a part that this network does not have")
    renamed = {f"backbone.encoder.{name}": value for name, value in loaded.items()}
    return FoundWeights(found.path, "transformers", network.style, renamed, skipped)
