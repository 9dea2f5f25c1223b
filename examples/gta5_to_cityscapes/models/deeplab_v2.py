"""DeepLabV2 backbones at output stride 8: ResNet (stage res5, D = 2048) and VGG16 (fc7, D = 1024)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .network import DilatedHead, SegmentationNetwork, Style, TwoLevelBackbone

BatchNormMode = Literal["train", "frozen"]


class Bottleneck(nn.Module):
    """Bottleneck block of ResNet: 1×1, 3×3, 1×1 with a shortcut.

    The two families of weights put the stride on different convolutions: Caffe's on the first 1×1,
    torchvision's on the 3×3. The shapes agree either way, so the wrong choice would load in silence and
    compute another function.
    """

    def __init__(self, channels: int, width: int, *, stride: int, dilation: int, style: Style) -> None:
        super().__init__()
        first, second = (stride, 1) if style == "caffe" else (1, stride)
        out = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y + shortcut)
        return out


class ResNetBackbone(TwoLevelBackbone):
    """ResNet whose last two stages keep stride 8 and dilate by 2 and 4 instead.

    The affine part of batch normalization never trains. Its statistics follow ``batch_norm``: ``"train"`` is
    ordinary training mode, ``"frozen"`` always uses the running statistics of the loaded weights.
    """

    def __init__(self, blocks: Sequence[int], width: int, style: Style, batch_norm: BatchNormMode) -> None:
        super().__init__()
        if batch_norm not in ("train", "frozen"):
            raise ValueError(f"batch_norm must be 'train' or 'frozen', got {batch_norm!r}.")
        self.batch_norm = batch_norm
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=style == "caffe")
        self.channels = width
        self.layer1 = self._stage(width, blocks[0], 1, 1, style)
        self.layer2 = self._stage(2 * width, blocks[1], 2, 1, style)
        self.layer3 = self._stage(4 * width, blocks[2], 1, 2, style)
        self.middle_channels = self.channels
        self.layer4 = self._stage(8 * width, blocks[3], 1, 4, style)
        self._initialize()

    def _stage(self, width: int, count: int, stride: int, dilation: int, style: Style) -> nn.Sequential:
        stage = []
        for index in range(count):
            step = stride if index == 0 else 1
            stage.append(Bottleneck(self.channels, width, stride=step, dilation=dilation, style=style))
            self.channels = 4 * width
        return nn.Sequential(*stage)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "ResNetBackbone":
        super().train(mode)
        if self.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, _BatchNorm):  # also where its statistics are shared among ranks
                    module.eval()
        return self

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        middle: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return middle, self.layer4(middle)


class VGG16Backbone(nn.Module):
    """VGG16 to fc7, its convolutions numbered as torchvision numbers them.

    The fourth and fifth pooling keep the size (3×3, stride 1); conv5 dilates by 2 and fc6 by 4 instead.
    """

    plan = (
        64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "keep", 512, 512, 512, "keep",
    )  # fmt: skip

    def __init__(self, divide: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, dilation = 3, 1
        for item in self.plan:
            if isinstance(item, int):
                layers.append(nn.Conv2d(channels, item // divide, 3, padding=dilation, dilation=dilation))
                layers.append(nn.ReLU(inplace=True))
                channels = item // divide
            elif item == "pool":
                layers.append(nn.MaxPool2d(2, stride=2))
            else:
                layers.append(nn.MaxPool2d(3, stride=1, padding=1))
                dilation = 2
        self.features = nn.Sequential(*layers)
        self.channels = 1024 // divide
        self.fc6 = nn.Conv2d(channels, self.channels, 3, padding=4, dilation=4)
        self.fc7 = nn.Conv2d(self.channels, self.channels, 1)
        self.relu = nn.ReLU(inplace=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc6(self.features(x)))
        out: Tensor = self.relu(self.fc7(x))
        return out


def deeplab_v2_resnet(
    num_classes: int,
    *,
    style: Style = "torchvision",
    batch_norm: BatchNormMode = "train",
    blocks: Sequence[int] = (3, 4, 23, 3),
    width: int = 64,
    auxiliary: bool = False,
) -> SegmentationNetwork:
    """DeepLabV2 on ResNet-101; ``blocks`` and ``width`` make smaller relatives of the same structure.

    ``auxiliary`` adds AdaptSegNet's second head, on res4.
    """
    backbone = ResNetBackbone(blocks, width, style, batch_norm)
    return _with_head(backbone, backbone.channels, num_classes, style, auxiliary)


def deeplab_v2_vgg16(num_classes: int, *, style: Style = "torchvision", divide: int = 1) -> SegmentationNetwork:
    """DeepLabV2 on VGG16; ``divide`` makes all its layers that much narrower."""
    backbone = VGG16Backbone(divide)
    return _with_head(backbone, backbone.channels, num_classes, style)


def _with_head(
    backbone: nn.Module, feature_dim: int, num_classes: int, style: Style, auxiliary: bool = False
) -> SegmentationNetwork:
    head = DilatedHead(feature_dim, num_classes)
    return SegmentationNetwork(
        backbone, head, feature_dim=feature_dim, num_classes=num_classes, stride=8, style=style, auxiliary=auxiliary
    )
