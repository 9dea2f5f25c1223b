"""A network that trains on one or two CPU cores: stride 8, then residual blocks of growing dilation.

Dense 3×3 convolutions on few cells are what a CPU does fast; depthwise ones save multiplications and lose time.
Group normalization is the default: source and target batches pass through separately, so running statistics would
mix the two domains, and adapting them would be an adaptation of its own that no row of an ablation names.
"""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from .network import DilatedHead, SegmentationNetwork, TwoLevelBackbone, check_dilations, check_whole

Norm = Literal["group", "batch"]


def normalize(channels: int, norm: Norm) -> nn.Module:
    """Group normalization in groups of at least eight channels where they divide, or batch normalization."""
    if norm == "group":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"norm must be 'group' or 'batch', got {norm!r}.")


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions of one dilation beside an identity."""

    def __init__(self, channels: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            normalize(channels, norm),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            normalize(channels, norm),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x + self.body(x))
        return out


class SmallBackbone(TwoLevelBackbone):
    """Three strided convolutions to stride 8, residual blocks, and the feature width.

    Its middle level lies half-way through the residual blocks.
    """

    def __init__(self, width: int, feature_dim: int, dilations: Sequence[int], norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out in (width // 4, width // 2, width):
            layers += _convolution(channels, out, 3, norm, stride=2)
            channels = out
        self.middle = len(layers) + len(dilations) // 2
        self.middle_channels = width
        layers += [ResidualBlock(width, dilation, norm) for dilation in dilations]
        layers += _convolution(width, feature_dim, 1, norm)
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle: Tensor = self.layers[: self.middle](x)
        return middle, self.layers[self.middle :](middle)


def _convolution(channels: int, out: int, kernel: int, norm: Norm, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [convolution, normalize(out, norm), nn.ReLU(inplace=True)]


def small_network(
    num_classes: int,
    *,
    width: int = 48,
    feature_dim: int = 64,
    dilations: Sequence[int] = (1, 2, 4, 8),
    head_dilations: Sequence[int] = (1, 2, 4, 6),
    norm: Norm = "group",
    auxiliary: bool = False,
) -> SegmentationNetwork:
    """A light network with the interface of the full-size ones, trained from scratch.

    Args:
        num_classes: Channels K of the logits.
        width: Channels of the residual blocks, a multiple of 4; time grows with its square.
        feature_dim: Channels D of the features.
        dilations: One residual block each.
        head_dilations: Branches of the head; ``(0,)`` is a plain linear classifier.
        norm: ``"group"`` or ``"batch"``.
        auxiliary: Add a second head, on the middle of the residual blocks.
    """
    check_whole("width", width, least=4)
    if width % 4:
        raise ValueError(f"width must be a positive multiple of 4, got {width}.")
    check_whole("feature_dim", feature_dim, least=1)
    check_dilations("dilations", dilations, least=1)
    backbone = SmallBackbone(width, feature_dim, dilations, norm)
    head = DilatedHead(feature_dim, num_classes, head_dilations)
    return SegmentationNetwork(
        backbone,
        head,
        feature_dim=feature_dim,
        num_classes=num_classes,
        stride=8,
        style="torchvision",
        auxiliary=auxiliary,
    )
