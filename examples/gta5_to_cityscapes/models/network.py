"""The interface of every network: normalization, a backbone, and a linear head over dilated convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from .two_resolutions import two_resolutions

if TYPE_CHECKING:
    from .weights import WeightsReport

Style = Literal["caffe", "torchvision", "tensorflow", "symmetric"]

CAFFE_MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION_RGB = (0.229, 0.224, 0.225)


class NetworkOutput(NamedTuple):
    """Output of a segmentation network.

    Attributes:
        features: ``(B, D, h, w)``, the last stage of the backbone.
        logits: ``(B, K, h, w)``, the head on those features, not upsampled; of a network that sees two resolutions they
            are fused, and all else is that of the half-size image.
        auxiliary: ``(B, K, h, w)``, a second head on the stage before; None for a network without one.
        encoded: ``(B, C, h', w')``, the encoder's last stage; None where the features are that, without a decoder.
        details: ``(B, K, h', w')``, logits of a crop at full size, where a network sees two resolutions in training.
        corner: Top and left of that crop, in pixels of the logits.
    """

    features: Tensor
    logits: Tensor
    auxiliary: Tensor | None = None
    encoded: Tensor | None = None
    details: Tensor | None = None
    corner: tuple[int, int] = (0, 0)

    @property
    def last_stage(self) -> Tensor:
        """The last stage of the encoder, before any decoder."""
        return self.features if self.encoded is None else self.encoded

    def detached(self) -> NetworkOutput:
        """The same values without gradient."""
        return NetworkOutput(*(each.detach() if isinstance(each, Tensor) else each for each in self))


class PixelNormalization(nn.Module):
    """Normalization of RGB images in [0, 1] for the pretrained weights; ``"symmetric"`` is to -1 .. 1, as of BEiT.

    The numbers are persistent buffers: a checkpoint carries its normalization, from which its style is read.
    """

    order: Tensor
    multiplier: Tensor
    offset: Tensor

    def __init__(self, style: Style) -> None:
        super().__init__()
        if style == "caffe":
            order, mean, deviation, scale = (2, 1, 0), CAFFE_MEAN_BGR, (1.0, 1.0, 1.0), 255.0
        elif style == "torchvision":
            order, mean, deviation, scale = (0, 1, 2), IMAGENET_MEAN_RGB, IMAGENET_DEVIATION_RGB, 1.0
        elif style == "tensorflow":
            order, mean, deviation, scale = (0, 1, 2), (127.0,) * 3, (128.0,) * 3, 255.0
        elif style == "symmetric":
            order, mean, deviation, scale = (0, 1, 2), (0.5,) * 3, (0.5,) * 3, 1.0
        else:
            raise ValueError(f"style must be one of {', '.join(map(repr, get_args(Style)))}, got {style!r}.")
        spread = torch.tensor(deviation).view(1, 3, 1, 1)
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("multiplier", scale / spread)
        self.register_buffer("offset", torch.tensor(mean).view(1, 3, 1, 1) / spread)

    def forward(self, images: Tensor) -> Tensor:
        return images.index_select(1, self.order) * self.multiplier - self.offset


def check_whole(name: str, value: object, *, least: int) -> None:
    """Check that an option is a whole number of at least ``least``.

    Raises:
        ValueError: If it is not a whole number of at least that.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def check_dilations(name: str, dilations: Sequence[int], *, least: int) -> None:
    """Check a list of dilations.

    Raises:
        ValueError: If the list is empty, or one is not a whole number of at least that.
    """
    if isinstance(dilations, str) or not isinstance(dilations, Sequence) or not dilations:
        raise ValueError(f"{name} must be a list of at least one whole number, got {dilations!r}.")
    for each in dilations:
        check_whole(f"each of {name}", each, least=least)


class DilatedHead(nn.Module):
    """Classifier of DeepLabV2 (https://arxiv.org/abs/1606.00915): the sum of parallel dilated 3×3 convolutions.

    Args:
        feature_dim: Channels D of the features.
        num_classes: Channels K of the logits.
        dilations: One branch each. A dilation of 0 makes that branch a 1×1 convolution.
    """

    def __init__(self, feature_dim: int, num_classes: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        check_whole("feature_dim", feature_dim, least=1)
        check_dilations("head_dilations", dilations, least=0)
        self.dilations = tuple(dilations)
        self.branches = nn.ModuleList(_branch(feature_dim, num_classes, dilation) for dilation in dilations)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.branches[0](features)
        for branch in self.branches[1:]:
            logits = logits + branch(features)
        return logits

    def classify(self, rows: Tensor) -> Tensor:
        """The head on 1×1 maps: only the center tap of each kernel ever meets the single pixel."""
        branches = [cast(nn.Conv2d, branch) for branch in self.branches]
        centers = [b.weight[:, :, b.kernel_size[0] // 2, b.kernel_size[1] // 2] for b in branches]
        biases = [cast(Tensor, branch.bias) for branch in branches]
        return nn.functional.linear(rows, torch.stack(centers).sum(0), torch.stack(biases).sum(0))


def _branch(feature_dim: int, num_classes: int, dilation: int) -> nn.Conv2d:
    branch = nn.Conv2d(feature_dim, num_classes, 3 if dilation else 1, padding=dilation, dilation=max(1, dilation))
    nn.init.normal_(branch.weight, 0.0, 0.01)
    nn.init.zeros_(cast(Tensor, branch.bias))
    return branch


class TwoLevelBackbone(nn.Module):
    """A backbone that can also show the stage before its last one, for an auxiliary head.

    Attributes:
        middle_channels: Channels of that stage.
    """

    middle_channels: int

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stage before the last one and the last one, of the same height and width."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.levels(x)[1]


class SegmentationNetwork(nn.Module):
    """Segmentation network: a backbone and its head.

    Attributes:
        attention_head: Of a network that sees two resolutions, what says which of them counts, or None.
        auxiliary_head: A head on the stage before the last one, which AdaptSegNet aligns too, or None.
        context_only: Whether the output of a network that sees two resolutions is that of the half-size image.
        feature_dim: Channels D of the features.
        num_classes: Channels K of the logits.
        stride: Image pixels per feature pixel.
        style: Whose weights the normalization and the backbone follow.
        weights_report: What was loaded at construction, or None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: DilatedHead,
        *,
        feature_dim: int,
        num_classes: int,
        stride: int,
        style: Style,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(auxiliary, bool):
            raise ValueError(f"auxiliary must be true or false, got {auxiliary!r}.")
        self.normalization = PixelNormalization(style)
        self.backbone = backbone
        self.head = head
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.stride = stride
        self.style: Style = style
        self.weights_report: WeightsReport | None = None
        self.attention_head: DilatedHead | None = None
        self.context_only = False
        # Built last: with or without it, the rest starts from the same random weights.
        self.auxiliary_head: DilatedHead | None = None
        if auxiliary:
            channels = getattr(backbone, "middle_channels", None)
            if not isinstance(channels, int):
                raise ValueError(f"auxiliary needs a backbone that shows two levels, got {type(backbone).__name__}.")
            self.auxiliary_head = DilatedHead(channels, num_classes, head.dilations)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Features and logits of ``images`` ``(B, 3, H, W)``, floating point RGB in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images must be floating point RGB in [0, 1], (B, 3, H, W), got {images.dtype} "
                f"{tuple(images.shape)}. For uint8 pass images.float() / 255."
            )
        pixels = self.normalization(images)
        if self.attention_head is None:
            return self.output_of(pixels)
        return two_resolutions(self, pixels, self.attention_head)

    def see_two_resolutions(self) -> None:
        """From now on see images at half their size and parts of them in full, fused by an attention (HRDA).

        The attention's layers are those of the head (this pipeline's choice). At first it is 0.5 everywhere.
        """
        self.attention_head = DilatedHead(self.feature_dim, self.num_classes, self.head.dilations)
        for parameter in self.attention_head.parameters():
            nn.init.zeros_(parameter)

    def output_of(self, pixels: Tensor) -> NetworkOutput:
        """What the network computes from normalized images, at one resolution."""
        if self.auxiliary_head is None:
            features = self.backbone(pixels)
            return NetworkOutput(features, self.head(features))
        middle, features = cast(TwoLevelBackbone, self.backbone).levels(pixels)
        return NetworkOutput(features, self.head(features), self.auxiliary_head(middle))

    def classify(self, rows: Tensor) -> Tensor:
        """Logits ``(N, K)`` of feature rows ``(N, D)``, as if each were a map of one pixel."""
        if rows.ndim != 2 or rows.shape[1] != self.feature_dim:
            raise ValueError(f"rows must be (N, D={self.feature_dim}), got {tuple(rows.shape)}.")
        return self.head.classify(rows)

    def parameter_groups(self, lr: float, head_lr_mult: float = 10.0) -> list[dict[str, Any]]:
        """Backbone at ``lr``, heads at ``head_lr_mult`` times that; parameters without gradient are excluded."""
        heads = [head for head in (self.head, self.auxiliary_head, self.attention_head) if head is not None]
        return [
            {"params": [p for p in self.backbone.parameters() if p.requires_grad], "lr": lr},
            {"params": [p for head in heads for p in head.parameters() if p.requires_grad], "lr": head_lr_mult * lr},
        ]
