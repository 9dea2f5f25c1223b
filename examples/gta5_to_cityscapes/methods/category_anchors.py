"""CAG-UDA: class anchors of the source, and target pixels drawn to those that they are near."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

import stuffinstance as si

from ..data.loader import Samples, as_unit_floats, collate
from ..distributed import own_batches
from ..models import SegmentationNetwork
from ..recipes.settings import AnchorConfig
from .method import AnchorLabels, Loss, Method, StepContext
from .segmentation import cross_entropy, labeled_pixels

logger = logging.getLogger(__name__)
NEAREST_PIXELS, CONFIDENT_PIXELS = "pixels with an anchor's label", "pixels with a confident label"


class CategoryAnchoring(Method):
    """One stage: anchors and labels come from the network as the stage begins, which stays as it was.

    The labels are worked out for each step's own target images, so none lie on disk. The distance is a mean over the
    classes that a part's images show, so it alone depends a little on how a step is cut into parts.
    """

    needs_target = True

    def __init__(
        self,
        settings: AnchorConfig,
        space: si.LabelSpace,
        network: SegmentationNetwork,
        device: torch.device,
        batch: int,
    ) -> None:
        self.settings, self.space, self.device, self.batch = settings, space, device, batch
        self.frozen = copy.deepcopy(network).eval().requires_grad_(False)
        self.anchors = si.CategoryAnchors(
            space.num_classes, network.feature_dim, min_pixels=settings.min_pixels, max_count=settings.max_count
        ).to(device)
        self.distance = si.AnchorDistanceLoss(self.anchors, form=settings.form)

    @torch.no_grad()
    def prepare(self, labeled: Samples) -> None:
        """Average the source's class features over all its images."""
        self.anchors.reset()
        for together in own_batches(len(labeled), self.batch, even=True):
            if not together:  # nothing left for this rank, the others wait for it nevertheless
                nothing = torch.zeros(0, self.frozen.feature_dim, 1, 1, device=self.device)
                self.anchors.update(nothing, torch.zeros(0, 1, 1, dtype=torch.long, device=self.device))
                continue
            images = collate([labeled[i] for i in together])
            seen = self.frozen(as_unit_floats(images.images, self.device))
            self.anchors.update(seen.features, images.labels.to(self.device).long(), seen.logits)
        found = int(self.anchors.filled.sum())
        if found < 2:
            logger.warning(
                "category anchors: %d of %d classes have one, so no target pixel is assigned and the stage adds "
                "nothing. Begin with a network that has learned more, or lower anchors.min_pixels (%d, at the "
                "features' size).",
                found,
                self.space.num_classes,
                self.settings.min_pixels,
            )

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        value = self.distance(domain.seen.features, domain.labels, domain.seen.logits)
        return [Loss("anchor_distance_source", value, self.settings.distance_weight)]

    @torch.no_grad()
    def before(self, context: StepContext) -> None:
        seen = self.frozen(context.unlabeled.images)
        best = seen.logits.float().softmax(1).max(1)
        confident = torch.where(best.values > self.settings.confidence, best.indices, self.space.ignore_index)
        context.anchored = AnchorLabels(self.anchors.assign(seen.features, self.settings.margin), confident)

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        labels, ignored = context.anchor_labels, self.space.ignore_index
        return {
            NEAREST_PIXELS: labeled_pixels(labels.nearest, ignored),
            CONFIDENT_PIXELS: labeled_pixels(labels.confident, ignored),
        }

    def on_target(self, context: StepContext) -> list[Loss]:
        labels, ignored = context.anchor_labels, self.space.ignore_index
        seen, weight = context.unlabeled.seen, self.settings.label_weight
        distance = self.distance(seen.features, labels.nearest, seen.logits)
        nearest, confident = (cross_entropy(seen.logits, each, ignored) for each in (labels.nearest, labels.confident))
        return [
            Loss("anchor_labels", nearest, weight, NEAREST_PIXELS),
            Loss("confident_labels", confident, weight, CONFIDENT_PIXELS),
            Loss("anchor_distance_target", distance, self.settings.distance_weight),
        ]

    def modules(self) -> dict[str, nn.Module]:
        return {"anchors": self.anchors, "stage_start": self.frozen}
