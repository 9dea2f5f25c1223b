"""A network that trains on one or two CPU cores: stride 8 at once, then residual blocks of growing dilation.

Dense 3×3 convolutions on few pixels are what a CPU does fast; depthwise ones save multiplications and lose time.
Group normalisation is the default: source and target batches pass through separately, so batch statistics of one
domain would be wrong for the other and running statistics would be a mixture of both.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from .network import DilatedHead, SegmentationNetwork

Norm = Literal["group", "batch"]


def normalise(channels: int, norm: Norm) -> nn.Module:
    """Group normalisation in groups of eight channels, or batch normalisation."""
    if norm == "group":
        return nn.GroupNorm(max(1, channels // 8), channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"norm must be 'group' or 'batch', got {norm!r}.")


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions of one dilation beside an identity."""

    def __init__(self, channels: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            normalise(channels, norm),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            normalise(channels, norm),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x + self.body(x))
        return out


class SmallBackbone(nn.Module):
    """Stem to stride 8, residual blocks, and a last convolution to the feature width."""

    def __init__(self, width: int, feature_dim: int, dilations: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 4, stride=4, bias=False),
            normalise(width // 2, norm),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            normalise(width, norm),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(*(ResidualBlock(width, dilation, norm) for dilation in dilations))
        self.out = nn.Sequential(
            nn.Conv2d(width, feature_dim, 1, bias=False), normalise(feature_dim, norm), nn.ReLU(inplace=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.blocks(self.stem(x)))
        return out


def small_network(
    num_classes: int,
    *,
    width: int = 64,
    feature_dim: int = 64,
    dilations: Sequence[int] = (1, 2, 4, 8),
    norm: Norm = "group",
) -> SegmentationNetwork:
    """A light network with the interface of the full-size ones, trained from scratch."""
    backbone = SmallBackbone(width, feature_dim, dilations, norm)
    head = DilatedHead(feature_dim, num_classes, dilations=(0,))
    return SegmentationNetwork(
        backbone, head, feature_dim=feature_dim, num_classes=num_classes, stride=8, style="torchvision"
    )
