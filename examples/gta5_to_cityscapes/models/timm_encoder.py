"""Hierarchical encoders of the package timm (ConvNeXt, ResNet, EfficientNet, PVT, Swin, ...) with an all-MLP decoder.

The encoder is built by timm with random weights; its published weights come from a file, nothing is ever downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .all_mlp import AllMlpFusion, FusedBackbone, FusedNetwork, Stride
from .network import IMAGENET_MEAN_RGB, DilatedHead, SegmentationNetwork, Style, check_whole
from .padding import cropped, padded
from .small import Norm
from .weights import FoundWeights, encoder_tensors

STRIDES = [4, 8, 16, 32]
_STYLES: Mapping[tuple[float, ...], Style] = {IMAGENET_MEAN_RGB: "torchvision", (0.5, 0.5, 0.5): "symmetric"}


class TimmBackbone(FusedBackbone):
    """The encoder's last four stages and their fusion; a frozen encoder is never in training mode."""

    def __init__(self, encoder: nn.Module, fusion: AllMlpFusion, channels: list[int], stride: Stride, freeze: bool):
        super().__init__(encoder, fusion, channels, stride)
        self.freeze = freeze
        encoder.requires_grad_(not freeze)

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def stages(self, x: Tensor) -> Sequence[Tensor]:
        whole = padded(x, STRIDES[-1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            maps: Sequence[Tensor] = self.encoder(whole)[-len(STRIDES) :]
        return [cropped(each, x.shape[2:], whole.shape[2:]) for each in maps]


def timm_network(
    num_classes: int,
    *,
    model: str = "convnext_tiny",
    settings: Mapping[str, Any] | None = None,
    fused_dim: int = 256,
    stride: Stride = 8,
    norm: Norm = "batch",
    freeze: bool = False,
    auxiliary: bool = False,
    style: Style | None = None,
) -> SegmentationNetwork:
    """An encoder of timm with the all-MLP fusion of its stages and a linear classifier.

    Args:
        num_classes: Channels K of the logits.
        model: Its name in timm: one with stages of stride 4, 8, 16 and 32.
        settings: What else ``timm.create_model`` takes, such as ``drop_path_rate``, or ``img_size`` of an encoder that
            is built for one size.
        fused_dim: Channels D of the features.
        stride: Of the features, 4 or 8.
        norm: Of the fusion, ``"batch"`` or ``"group"``.
        freeze: Keep the encoder as it is; matching trains the fusion alone.
        auxiliary: Add a second head, on the stage of stride 16.
        style: Normalization of the images, by default that of the published weights.

    Raises:
        ModuleNotFoundError: If timm, or the torchvision that it needs, cannot be imported.
        ValueError: If timm has no such encoder, its strides are others, or another option does not fit.
    """
    check_whole("fused_dim", fused_dim, least=1)
    if not isinstance(freeze, bool):
        raise ValueError(f"freeze must be true or false, got {freeze!r}.")
    if not isinstance(model, str) or not (settings is None or isinstance(settings, Mapping)):
        raise ValueError(f"model must be a name and settings a mapping, got {model!r} and {settings!r}.")
    try:
        encoder = _timm().create_model(model, **{**(settings or {}), "pretrained": False, "features_only": True})
        strides, channels = (encoder.feature_info.reduction()[-4:], encoder.feature_info.channels()[-4:])
    except ImportError:
        raise
    except Exception as error:  # of many kinds, one for each setting that does not fit
        raise ValueError(
            f"model must be an encoder of timm that shows features, got {model!r} with settings {settings or {}}: "
            f"{error}"
        ) from error
    if strides != STRIDES:
        raise ValueError(
            f"model must have stages of strides {STRIDES}, got {model!r} with {strides}. For a plain vision "
            "transformer take the network vit."
        )
    if style is None:
        mean = tuple(encoder.pretrained_cfg.get("mean", ()))
        if mean not in _STYLES:
            raise ValueError(f"style must be given for {model!r}, whose weights take images of mean {mean}.")
        style = _STYLES[mean]
    return FusedNetwork(
        TimmBackbone(encoder, AllMlpFusion(channels, fused_dim, norm), channels, stride, freeze),
        DilatedHead(fused_dim, num_classes, dilations=(0,)),
        feature_dim=fused_dim,
        num_classes=num_classes,
        stride=stride,
        style=style,
        auxiliary=auxiliary,
    )


def _timm() -> ModuleType:
    try:
        import timm  # an optional package, slow to import
    except (ImportError, RuntimeError) as error:  # the second of a torchvision for another torch
        raise ModuleNotFoundError(
            f"the network timm needs the package timm, and a torchvision for the installed torch {torch.__version__}: "
            f"pip install -e '.[examples,timm]' ({error})",
            name="timm",
        ) from error
    return timm


def as_timm_weights(found: FoundWeights, network: SegmentationNetwork) -> FoundWeights:
    """A model's weights as timm writes them under the names of this network's encoder; a checkpoint stays as it is.

    An encoder that shows features calls ``stages.0`` by the name ``stages_0``, or has ``model.`` in front.
    """
    if found.origin == "checkpoint":
        return found
    own = {_plain(name): name for name in network.backbone.encoder.state_dict()}
    tensors, skipped = encoder_tensors(found, ("",), "a model of timm")
    renamed = {f"backbone.encoder.{own[_plain(name)]}": value for name, value in tensors.items() if _plain(name) in own}
    others = {name: "a part that this network does not have" for name in tensors if _plain(name) not in own}
    return FoundWeights(found.path, "timm", network.style, renamed, skipped | others)


def _plain(name: str) -> str:
    return re.sub(r"_(\d+)\.", r".\1.", name.removeprefix("model."))
