"""The matching step as the reference implementation does it: the masked features are summed once per class and region.

Written from the equations and from what is known of that code's cost, not from its text. It loops over classes and
regions, labels one class at a time on the host, counts areas one by one, synchronizes before each decision and
knows batches of one image. It is kinder than the original in one way: an absent class costs no masked pass (and adds
no constant to the loss). Besides being timed it is an oracle: the library must agree with it before any time is taken.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from skimage.measure import label as label_regions
from torch import Tensor

import stuffinstance as si


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean feature (D,) of the pixels in ``mask`` (h, w): multiplies the whole map (1, D, h, w), then adds it up."""
    inside = mask.to(features.dtype)
    return (features * inside).sum((2, 3))[0] / (inside.sum() + 1e-12)


def largest_masks(labels: Tensor, k: int, most: int) -> list[Tensor]:
    """Masks (h, w) of the largest 8-connected regions of class ``k`` in ``labels`` (h, w), by falling area.

    Equal areas come in raster order (the reference implementation leaves them in no fixed order).
    """
    on_host = (labels == k).cpu().numpy().astype(np.uint8)
    numbers, count = label_regions(on_host, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
    regions = torch.from_numpy(np.ascontiguousarray(numbers)).to(labels.device)
    areas = [int((regions == number).sum()) for number in range(1, count + 1)]
    by_area = sorted(range(count), key=lambda place: -areas[place])
    return [regions == place + 1 for place in by_area[:most]]


@dataclass
class ReferenceImplementation:
    """Stuff and instance matching for batches of one image, with the preset ``"code"`` and no agreement filter.

    Attributes:
        stuff_rows: Per stuff class (S, D); instance_rows: per thing class (10 S, D).
        stuff_written, instance_written: Per class, rows ever written.
    """

    space: si.LabelSpace
    stuff_rows: dict[int, Tensor]
    instance_rows: dict[int, Tensor]
    stuff_written: dict[int, int]
    instance_written: dict[int, int]
    max_instances: int = 10

    @classmethod
    def with_banks_of(cls, sim: si.StuffInstanceMatching) -> "ReferenceImplementation":
        """A copy of another module's memory, from which both can go on side by side."""
        stuff, instance = sim.stuff_bank, sim.instance_bank
        return cls(
            sim.space,
            {k: rows.clone() for k, rows in zip(stuff.classes, stuff.features, strict=True)},
            {k: rows.clone() for k, rows in zip(instance.classes, instance.features, strict=True)},
            dict(zip(stuff.classes, stuff.written.tolist(), strict=True)),
            dict(zip(instance.classes, instance.written.tolist(), strict=True)),
            instance.max_instances,
        )

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Eq. 4, Eq. 5 and Algorithm 1: features (1, D, h, w), labels (1, H, W), logits (1, K, h, w)."""
        size = (features.shape[2], features.shape[3])
        ground_truth = F.interpolate(labels[:, None].float(), size, mode="nearest")[0, 0].to(torch.int64)
        correct = torch.where(ground_truth == logits.argmax(1)[0], ground_truth, self.space.ignore_index)
        for k in self.space.stuff:
            mask = correct == k
            if bool(mask.any()):
                row = masked_mean(features, mask)
                self.stuff_written[k] = _write(self.stuff_rows[k], self.stuff_written[k], row)
        for k in self.space.things:
            for mask in largest_masks(correct, k, self.max_instances):
                row = masked_mean(features, mask)
                self.instance_written[k] = _write(self.instance_rows[k], self.instance_written[k], row)

    def __call__(self, features: Tensor, logits: Tensor) -> si.MatchingLosses:
        """Eq. 6 and Eq. 8 (mean over channels, no square; a class only once its ring has wrapped)."""
        predicted = logits.argmax(1)[0]
        stuff = instance = features.new_zeros(())
        for k in self.space.stuff:
            mask = predicted == k
            if bool(mask.any()) and self.stuff_written[k] / len(self.stuff_rows[k]) > 1:
                stuff = stuff + _nearest(masked_mean(features, mask), self.stuff_rows[k])
        for k in self.space.things:
            masks = largest_masks(predicted, k, self.max_instances)
            if self.instance_written[k] / len(self.instance_rows[k]) > 1:
                for mask in masks:
                    distance = _nearest(masked_mean(features, mask), self.instance_rows[k])
                    instance = instance + distance / len(masks)
        return si.MatchingLosses(stuff, instance)


def _write(rows: Tensor, written: int, row: Tensor) -> int:
    """Put a row into the next slot, if it is finite; the number of rows ever written after that."""
    if not bool(row.isfinite().all()):
        return written
    rows[written % len(rows)] = row
    return written + 1


def _nearest(row: Tensor, rows: Tensor) -> Tensor:
    return (rows - row).abs().mean(1).min()
