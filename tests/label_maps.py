"""The gallery of label maps on which every way to find regions must agree.

Each map is (B, H, W) int64 with 255 for ignored pixels. The shapes are those on which labeling goes wrong:
long winding paths, regions that meet late, corners that touch, and almost nothing at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = 255
INTEGER_DTYPES = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64
)  # fmt: skip


def snake(height: int, width: int) -> Tensor:
    """One path through the whole map: each second row is joined to the next at alternating ends."""
    labels = torch.full((height, width), IGNORE)
    labels[::2] = 3
    for turn, row in enumerate(range(1, height - 1, 2)):
        labels[row, -1 if turn % 2 == 0 else 0] = 3
    return labels[None]


def spiral(height: int, width: int) -> Tensor:
    """Two interleaved spirals of different classes; each is a single region."""
    labels = torch.full((height, width), 1)
    i, j, di, dj = 0, 0, 0, 1
    labels[0, 0] = 2

    def free(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and int(labels[y, x]) != 2

    def clear(y: int, x: int) -> bool:  # nothing of the path lies one step further on
        return not (0 <= y < height and 0 <= x < width) or int(labels[y, x]) != 2

    turns = 0
    while turns < 2:
        if free(i + di, j + dj) and clear(i + 2 * di, j + 2 * dj):
            i, j, turns = i + di, j + dj, 0
            labels[i, j] = 2
        else:
            di, dj, turns = dj, -di, turns + 1
    return labels[None]


def comb(height: int, width: int, *, joined_below: bool) -> Tensor:
    """Teeth that meet only in the last (or first) row: numbers must be merged late."""
    labels = torch.full((height, width), IGNORE)
    labels[:, ::2] = 0
    labels[-1 if joined_below else 0] = 0
    return labels[None]


def checkerboard(height: int, width: int, first: int, second: int) -> Tensor:
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    return torch.where(odd == 0, first, second)[None]


def noise(height: int, width: int, ids: tuple[int, ...], seed: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor(ids)[torch.randint(len(ids), (batch, height, width), generator=generator)]


def blocks(height: int, width: int, ids: tuple[int, ...], seed: int, batch: int = 1, cell: int = 4) -> Tensor:
    """Noise made of larger cells with a few single pixels changed: regions of many sizes."""
    coarse = noise(-(-height // cell), -(-width // cell), ids, seed, batch)
    fine = coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :height, :width]
    generator = torch.Generator().manual_seed(seed + 1)
    changed = torch.rand((batch, height, width), generator=generator) < 0.08
    return torch.where(changed, noise(height, width, ids, seed + 2, batch), fine)


def rings(size: int) -> Tensor:
    """Closed rings one inside the other, two classes in turn."""
    line = torch.arange(size)
    depth = torch.minimum(line, size - 1 - line)
    return (torch.minimum(depth[:, None], depth) % 2 + 7)[None]


def diagonals(height: int, width: int) -> Tensor:
    """Lines that 8 neighbors join and 4 neighbors do not."""
    third = (torch.arange(height)[:, None] + torch.arange(width)) % 3
    return torch.tensor([4, 5, IGNORE])[third][None]


def staircase_v(size: int) -> Tensor:
    """A wide V, open above: two first pixels in one row, one region."""
    labels = torch.full((size, 2 * size), IGNORE)
    for i in range(size):
        labels[i, i] = labels[i, 2 * size - 1 - i] = 6
    return labels[None]


def street(height: int, width: int, seed: int, batch: int = 1) -> Tensor:
    """Bands of stuff with boxes of things, like a small street scene in Cityscapes ids."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((batch, height, width), 10)
    labels[:, height // 4 :] = 2
    labels[:, height // 2 :] = 0
    for image in labels:
        for _ in range(25):
            y = int(torch.randint(height, (), generator=generator))
            x = int(torch.randint(width, (), generator=generator))
            tall, wide = (int(n) for n in torch.randint(1, max(2, height // 5), (2,), generator=generator))
            ids = (5, 6, 7, 8, 11, 12, 13, 13, 13, 18, IGNORE)
            image[y : y + tall, x : x + wide] = ids[int(torch.randint(len(ids), (), generator=generator))]
    return labels


GALLERY: dict[str, Tensor] = {
    "snake": snake(33, 65),
    "snake-mirrored": snake(33, 65).flip(2),
    "snake-upright": snake(65, 33).transpose(1, 2).contiguous(),
    "spiral": spiral(33, 65),
    "spiral-upside-down": spiral(21, 40).flip(1),
    "comb-down": comb(17, 33, joined_below=True),
    "comb-up": comb(17, 33, joined_below=False),
    "comb-right": comb(33, 17, joined_below=True).transpose(1, 2).contiguous(),
    "checkerboard": checkerboard(12, 17, 0, 1),
    "checkerboard-ignored": checkerboard(12, 17, 13, IGNORE),
    "rings": rings(23),
    "diagonals": diagonals(15, 22),
    "v": staircase_v(11),
    "noise-2": noise(17, 23, (0, IGNORE), 1),
    "noise-3": noise(17, 23, (0, 1, IGNORE), 2, batch=2),
    "noise-19": noise(17, 23, (*range(19), IGNORE), 3),
    "blocks": blocks(24, 31, (0, 5, 13, IGNORE), 4, batch=3),
    "street": street(36, 72, 5, batch=2),
    "one-class": torch.full((2, 9, 11), 4),
    "row": noise(1, 41, (0, 1, IGNORE), 6),
    "column": noise(41, 1, (0, 1, IGNORE), 7),
    "two-by-two": torch.tensor([[[8, 9], [9, 8]]]),
    "one-pixel": torch.tensor([[[0]]]),
    "one-pixel-ignored": torch.tensor([[[IGNORE]]]),
    "all-ignored": torch.full((2, 7, 5), IGNORE),
    "one-image-ignored": torch.stack([torch.full((7, 5), IGNORE), noise(7, 5, (0, 1), 8)[0]]),
    "empty-batch": torch.zeros((0, 5, 7), dtype=torch.int64),
}


def with_extremes(dtype: torch.dtype) -> Tensor:
    """Classes 1 and 2, and one pixel each of the smallest and the largest number of an integer type, (1, 9, 12)."""
    limits = torch.iinfo(dtype)
    labels = blocks(9, 12, (1, 2), seed=5).to(dtype).numpy()
    labels[0, 4, 4], labels[0, 5, 7] = limits.min, limits.max
    return torch.from_numpy(labels)
