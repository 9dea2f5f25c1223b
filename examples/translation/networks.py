"""One generator for both directions and the discriminator of its images (after StarGAN, Choi et al., CVPR 2018).

Domains are numbered as everywhere in the library: 0 is source, 1 is target, and so are channels per domain.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DOMAINS = 2
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Generator(nn.Module):
    """An image and the domain that it shall look like, to an image: x + delta(x, domain).

    The domain comes as one plane of ones and one of zeros beside the colors, as in StarGAN. Unlike there, a change is
    added to the image, starting from none, and instance normalization stands only within the residual blocks: the
    stream around them keeps the exposure of the image, which the change depends on.

    Args:
        width: Channels w at full resolution; 2w and 4w at a half and a quarter.
        blocks: Residual blocks at a quarter of the resolution.
    """

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3 + DOMAINS, width, 3, padding=1)
        self.halve = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.quarter = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(_ResidualBlock(4 * width) for _ in range(blocks)))
        self.back_to_half = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.back_to_whole = nn.Conv2d(2 * width, width, 3, padding=1)
        self.delta = nn.Conv2d(width, 3, 3, padding=1)
        for parameter in self.delta.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor, towards: Tensor) -> Tensor:
        """``images`` (B, 3, H, W) RGB in [0, 1] as domain ``towards`` (B,) int64; not clamped to [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images must be floating point RGB in [0, 1], (B, 3, H, W), got {images.dtype} "
                f"{tuple(images.shape)}. For uint8 pass images.float() / 255."
            )
        if towards.shape != images.shape[:1] or towards.dtype != torch.int64:
            raise ValueError(
                f"towards must be int64, one domain for each of {len(images)} images (B,), got {towards.dtype} "
                f"{tuple(towards.shape)}. 0 is source, 1 is target."
            )
        planes = F.one_hot(towards, DOMAINS).to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        whole = F.leaky_relu(self.stem(torch.cat([2 * images - 1, planes], dim=1)), 0.2)
        half = F.leaky_relu(self.halve(whole), 0.2)
        quarter = self.blocks(F.leaky_relu(self.quarter(half), 0.2))
        half = half + F.leaky_relu(_enlarged(self.back_to_half(quarter), half), 0.2)
        whole = whole + F.leaky_relu(self.back_to_whole(_enlarged(half, whole)), 0.2)
        delta: Tensor = self.delta(whole)
        return images + delta


def in_channels_last(module: ModuleT) -> ModuleT:
    """The module itself, its convolutions laid out channel by channel: a fifth to a quarter faster on a CPU."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm2d(channels, affine=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Judgement(NamedTuple):
    """What the discriminator says of each patch of an image.

    Attributes:
        real: ``(B, 2, h, w)``, a channel per domain: near 1 for a real image of that domain, near 0 for a made one.
        domain: ``(B, 1, h, w)``, logits of "this is target".
    """

    real: Tensor
    domain: Tensor


class Discriminator(nn.Module):
    """Patches of 40 pixels: real or made, and of which domain.

    Three 4×4 convolutions of stride 2, leaky ReLU of slope 0.2, no normalization, and a 3×3 head each; the patches are
    small so that it judges texture and not the layout of streets, in which the domains differ as well. StarGAN has one
    channel of real/fake for all domains, and leaves it to the classification alone that a translation changes anything;
    here every domain has its own (this example's choice: training so is short and does not drift). Beside the image
    it sees what a 3×3 mean takes from it, eight times enlarged: noise of less than a gray level is texture too.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = (2 * 3, width, 2 * width, 4 * width)
        self.trunk = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(channels)
        )
        self.real = nn.Conv2d(channels[-1], DOMAINS, 3, padding=1)
        self.domain = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Judgement:
        """Judge ``images`` (B, 3, H, W), in [0, 1] where they are real."""
        fine = images - F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        hidden = torch.cat([2 * images - 1, 8 * fine], dim=1)
        for convolution in self.trunk:
            hidden = F.leaky_relu(convolution(hidden), 0.2)
        return Judgement(self.real(hidden), self.domain(hidden))
