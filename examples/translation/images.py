"""The images of each step, which follow from seed and step alone: a resumed training sees what it would have seen."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.gta5_to_cityscapes.data import SegmentationDataset

from .settings import Settings


class StepImages:
    """Batches of one domain: shuffled epoch after epoch, cut, and every other one mirrored.

    Args:
        dataset: Opened with the size of ``settings``.
        settings: Batch, crop and seed.
        domain: 0 for source, 1 for target: so that two data sets of one length are not shuffled alike.
    """

    def __init__(self, dataset: SegmentationDataset, settings: Settings, domain: int) -> None:
        self.dataset = dataset
        self.settings = settings
        self.seed = 2 * settings.seed + domain

    def draw(self, step: int) -> Tensor:
        """Images (B, 3, h, w) in [0, 1] of the update after ``step`` ones, on the CPU."""
        batch = self.settings.batch
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        images = [self._cut(self._index(step * batch + k), generator) for k in range(batch)]
        return torch.stack(images).float().div_(255)

    def _index(self, place: int) -> int:
        epoch, within = divmod(place, len(self.dataset))
        generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_000_007 + epoch)
        return int(torch.randperm(len(self.dataset), generator=generator)[within])

    def _cut(self, index: int, generator: torch.Generator) -> Tensor:
        image = self.dataset[index].image
        height, width = self.settings.crop or image.shape[1:]
        top, left, mirrored = (
            int(torch.randint(end, (), generator=generator))
            for end in (image.shape[1] - height + 1, image.shape[2] - width + 1, 2)
        )
        part = image[:, top : top + height, left : left + width]
        return part.flip(2) if mirrored else part
