"""CAG-UDA: class anchors of the source, and target pixels drawn to those that they are near."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

import stuffinstance as si

from ...batches.streams import Samples, as_unit_floats, collate, in_order
from ...networks import SegmentationNetwork
from ...recipes.settings import Anchors
from .segmentation import cross_entropy
from .term import Loss, Passes, Term

logger = logging.getLogger(__name__)


class CategoryAnchoring(Term):
    """One stage: anchors and labels come from the network as the stage begins, which stays as it was.

    The labels are worked out for each step's own target pictures, so none lie on disk.
    """

    needs_target = True

    def __init__(
        self, settings: Anchors, space: si.LabelSpace, network: SegmentationNetwork, device: torch.device, batch: int
    ) -> None:
        self.settings, self.space, self.device, self.batch = settings, space, device, batch
        self.frozen = copy.deepcopy(network).eval().requires_grad_(False)
        self.anchors = si.CategoryAnchors(
            space.num_classes, network.feature_dim, min_pixels=settings.min_pixels, max_count=settings.max_count
        ).to(device)
        self.distance = si.AnchorDistanceLoss(self.anchors, form=settings.form)

    @torch.no_grad()
    def prepare(self, labelled: Samples) -> None:
        """Average the source's class features over all its pictures."""
        self.anchors.reset()
        for samples in in_order(labelled, self.batch):
            pictures = collate(samples)
            seen = self.frozen(as_unit_floats(pictures.images, self.device))
            self.anchors.update(seen.features, pictures.labels.to(self.device).long(), seen.logits)
        found = int(self.anchors.filled.sum())
        if found < 2:
            logger.warning(
                "category anchors: %d of %d classes have one, so no target pixel is assigned and the stage adds "
                "nothing. Begin with a network that has learnt more, or lower anchors.min_pixels (%d, at the "
                "features' size).",
                found,
                self.space.num_classes,
                self.settings.min_pixels,
            )

    def on_labelled(self, passes: Passes) -> list[Loss]:
        domain = passes.labelled
        value = self.distance(domain.seen.features, domain.labels, domain.seen.logits)
        return [Loss("anchor_distance_source", value, self.settings.distance_weight)]

    def on_target(self, passes: Passes) -> list[Loss]:
        domain, ignored = passes.unlabelled, self.space.ignore_index
        assigned, confident = self._labels(domain.images)
        logits, weight = domain.seen.logits, self.settings.label_weight
        value = self.distance(domain.seen.features, assigned, logits)
        return [
            Loss("anchor_labels", cross_entropy(logits, assigned, ignored), weight),
            Loss("confident_labels", cross_entropy(logits, confident, ignored), weight),
            Loss("anchor_distance_target", value, self.settings.distance_weight),
        ]

    @torch.no_grad()
    def _labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """By the nearest anchor, and by the softmax; both at the features' resolution."""
        seen = self.frozen(images)
        best = seen.logits.float().softmax(1).max(1)
        confident = torch.where(best.values > self.settings.confidence, best.indices, self.space.ignore_index)
        return self.anchors.assign(seen.features, self.settings.margin), confident

    def modules(self) -> dict[str, nn.Module]:
        return {"anchors": self.anchors, "stage_start": self.frozen}
