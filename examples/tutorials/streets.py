"""Streets of the generated city as tensors, for the tutorials."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from examples.generated_city import DomainStatistics
from examples.generated_city.rendering import render_scene
from examples.gta5_to_cityscapes.data import read_classes

SIZE = (240, 120)  # width, height


def draw_streets(
    domain: DomainStatistics, count: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Images of one domain and their labels.

    Args:
        domain: ``GAME_CITY`` or ``CAMERA_CITY`` of ``examples.generated_city``.
        count: B.
        seed: The same seed draws the same streets.

    Returns:
        Images (B, 3, 120, 240) in 0 .. 1, and class ids of ``si.CITYSCAPES``
        (B, 120, 240), 255 where ignored.
    """
    table = read_classes("cityscapes").table("target").ids.astype(np.int64)
    scenes = [
        render_scene((seed, domain.seed_key, 0, number), domain, SIZE)
        for number in range(count)
    ]
    images = np.stack([image for image, _ in scenes]).astype(np.float32) / 255
    labels = np.stack([table[ids] for _, ids in scenes])
    return torch.from_numpy(images).movedim(3, 1), torch.from_numpy(labels)
