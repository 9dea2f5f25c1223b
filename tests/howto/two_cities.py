"""What the pages take as given: two small data sets, their loaders, and a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import stuffinstance as si

SPACE = si.LabelSpace(names=("road", "grass", "car"), stuff=(0, 1), things=(2,))
SIZE = 64


class Images(Dataset[Any]):
    """Road and grass with nine cars; the target is darker and has no labels."""

    def __init__(self, count: int, domain: str) -> None:
        generator = torch.Generator().manual_seed(len(domain))
        labels = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
        labels[:, :, SIZE // 2 :] = 1
        for top in (8, 28, 48):
            for left in (4, 24, 44):
                labels[:, top : top + 12, left : left + 12] = 2
        colors = torch.eye(3)[labels].movedim(3, 1)
        noise = torch.rand(colors.shape, generator=generator)
        self.images = 2 * (0.6 * colors if domain == "target" else colors) + 0.2 * noise - 0.5
        labels[:, :4] = 255  # an unlabeled strip
        self.labels = None if domain == "target" else labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index] if self.labels is None else (self.images[index], self.labels[index])


class Network(nn.Module):
    """Features (B, 8, h, w) of stride 4 and logits (B, 3, h, w), with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, SPACE.num_classes, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        return features, self.head(features)


def batches(names: dict[str, Any], count: int = 16) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images and labels of the source and images of the target, drawn at random."""
    source, target = names["source_dataset"], names["target_dataset"]
    picked = [(torch.randint(64, (8,)), torch.randint(24, (8,))) for _ in range(count)]
    return [(source.images[i], source.labels[i], target.images[j]) for i, j in picked]


def given() -> dict[str, Any]:
    """The names that the pages say a trainer has; 64 images of the source in batches of 8, fewer of the target."""
    torch.manual_seed(0)
    source, target = Images(64, "source"), Images(24, "target")
    return {
        "space": SPACE,
        "source_dataset": source,
        "target_dataset": target,
        "source_loader": DataLoader(source, 8, shuffle=True),
        "target_loader": DataLoader(target, 8, shuffle=True),
        "network": Network(),
        "steps": 16,
    }
