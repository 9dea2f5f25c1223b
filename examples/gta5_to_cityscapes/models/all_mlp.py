"""The all-MLP decoder of SegFormer on any encoder that gives feature maps of strides 4, 8, 16 and 32.

Its features are the fused map, one linear layer before the classes: (B, D, H/4, W/4) or (B, D, H/8, W/8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import NetworkOutput, SegmentationNetwork
from .small import Norm, normalize

Stride = Literal[4, 8]


class AllMlpFusion(nn.Module):
    """The decoder up to its last layer: each stage linearly to D, upsampled, put side by side, linearly to D.

    Eq. 4 of SegFormer (https://arxiv.org/abs/2105.15203), with the normalization and ReLU of its code after the second
    linear layer, and without its last line, the classifier, which is the network's head. The code's dropout between the
    two is omitted: rows of features must give the logits of their pixels.
    """

    def __init__(self, channels: Sequence[int], fused_dim: int, norm: Norm) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(each, fused_dim, 1) for each in channels)
        self.fuse = nn.Conv2d(len(channels) * fused_dim, fused_dim, 1, bias=False)
        self.norm = normalize(fused_dim, norm)
        nn.init.kaiming_normal_(self.fuse.weight, nonlinearity="relu")

    def forward(self, stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Stages (B, C_i, h_i, w_i) to (B, D, h, w) of the given size."""
        pairs = zip(self.projections, stages, strict=True)
        maps = [F.interpolate(project(stage), size, mode="bilinear", align_corners=False) for project, stage in pairs]
        fused: Tensor = F.relu(self.norm(self.fuse(torch.cat(maps, 1))))
        return fused


class FusedBackbone(nn.Module):
    """An encoder and the fusion of its four stages, at the size of one of the first two.

    Its middle level is the stage of stride 16.
    """

    def __init__(self, encoder: nn.Module, fusion: AllMlpFusion, channels: Sequence[int], stride: Stride) -> None:
        super().__init__()
        if stride not in (4, 8):
            raise ValueError(f"stride must be 4 or 8, got {stride!r}.")
        self.encoder = encoder
        self.fusion = fusion
        self.middle_channels = channels[2]
        self.size_of_stage = {4: 0, 8: 1}[stride]

    def stages(self, x: Tensor) -> Sequence[Tensor]:
        """The feature maps of strides 4, 8, 16 and 32."""
        stages: Sequence[Tensor] = self.encoder(x)
        return stages

    def fused(self, stages: Sequence[Tensor]) -> Tensor:
        """The features."""
        height, width = stages[self.size_of_stage].shape[2:]
        fused: Tensor = self.fusion(stages, (height, width))
        return fused

    def middle(self, stages: Sequence[Tensor]) -> Tensor:
        """The stage of stride 16, at the size of the features."""
        height, width = stages[self.size_of_stage].shape[2:]
        return F.interpolate(stages[2], (height, width), mode="bilinear", align_corners=False)


class FusedNetwork(SegmentationNetwork):
    """A network on a :class:`FusedBackbone`, whose fusion starts from random weights and trains as fast as the head."""

    def output_of(self, pixels: Tensor) -> NetworkOutput:
        backbone = cast(FusedBackbone, self.backbone)
        stages = backbone.stages(pixels)
        features = backbone.fused(stages)
        auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(backbone.middle(stages))
        return NetworkOutput(features, self.head(features), auxiliary, stages[-1])

    def parameter_groups(self, lr: float, head_lr_mult: float = 10.0) -> list[dict[str, Any]]:
        """Encoder at ``lr``, fusion and heads at ``head_lr_mult`` times that."""
        old = [p for p in self.backbone.encoder.parameters() if p.requires_grad]
        of_encoder = {id(p) for p in self.backbone.encoder.parameters()}
        new = [p for p in self.parameters() if p.requires_grad and id(p) not in of_encoder]
        return [{"params": old, "lr": lr}, {"params": new, "lr": head_lr_mult * lr}]
