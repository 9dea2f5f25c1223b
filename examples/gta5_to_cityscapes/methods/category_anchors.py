"""Category anchors: class means of the source, and target pixels labeled by the nearest of them (CAG-UDA)."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

import stuffinstance as si

from ..config import Count, Share, Weight
from ..data.loader import as_unit_floats, collate
from ..distributed import own_batches
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext
from .segmentation import cross_entropy, labeled_pixels

if TYPE_CHECKING:
    from ..data.loader import LabeledSamples

logger = logging.getLogger(__name__)
ANCHORED = "anchor labels"
NEAREST_PIXELS, CONFIDENT_PIXELS = "pixels with an anchor's label", "pixels with a confident label"


class AnchorLabels(NamedTuple):
    """Target labels (B, h, w): by the nearest anchor, and by the softmax."""

    nearest: Tensor
    confident: Tensor


class AnchorConfig(MethodConfig):
    """CAG-UDA: class anchors of the source, and target labels by the nearest anchor, from the stage before."""

    margin: Weight = 2.5
    min_pixels: Count = 10
    max_count: Count = 3000
    confidence: Share = 0.95
    label_weight: Weight = 0.5
    distance_weight: Weight = 0.7
    preset: Literal["code", "paper"] = "code"


class CategoryAnchoring(Method):
    """One stage of CAG-UDA: anchors and labels come from the network as the stage begins, which stays frozen.

    The labels are computed for each step's own target images, so none are stored. The distance is a mean over the
    classes that a part's images show, so it alone depends a little on how a step is cut into parts.
    """

    group, config, rank = "anchors", AnchorConfig, 100
    step_rank = 40
    parts = (Part("cag", "CAG", "category anchors (CAG-UDA)", kind="stage", rounds=True),)
    presets = {"small": AnchorConfig(margin=0.5, min_pixels=4)}
    losses = {
        "anchor_distance_source": "Anchors: distance, source",
        "anchor_distance_target": "Anchors: distance, target",
        "anchor_labels": "Anchors: cross-entropy, nearest",
        "confident_labels": "Anchors: cross-entropy, confident",
    }
    needs_forward = True
    cost = 0.7

    def __init__(self, config: AnchorConfig, setup: Setup) -> None:
        self.settings, self.space, self.device = config, setup.space, setup.device
        self.batch = setup.recipe.evaluation.batch
        self.frozen = copy.deepcopy(setup.network).eval().requires_grad_(False)
        self.anchors = si.CategoryAnchors(
            self.space.num_classes, setup.network.feature_dim, min_pixels=config.min_pixels, max_count=config.max_count
        ).to(setup.device)
        self.distance = si.AnchorDistanceLoss(self.anchors, preset=config.preset)

    @torch.no_grad()
    def prepare(self, labeled: LabeledSamples) -> None:
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

    @torch.no_grad()
    def before(self, context: StepContext) -> None:
        seen = self.frozen(context.unlabeled.images)
        best = seen.logits.float().softmax(1).max(1)
        confident = torch.where(best.values > self.settings.confidence, best.indices, self.space.ignore_index)
        nearest = self.anchors.assign(seen.features, self.settings.margin)
        context.found[ANCHORED] = AnchorLabels(nearest, confident)

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        labels, ignored = context.found[ANCHORED], self.space.ignore_index
        return {
            NEAREST_PIXELS: labeled_pixels(labels.nearest, ignored),
            CONFIDENT_PIXELS: labeled_pixels(labels.confident, ignored),
        }

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        value = self.distance(domain.seen.features, domain.labels, domain.seen.logits)
        return [Loss("anchor_distance_source", value, self.settings.distance_weight)]

    def on_target(self, context: StepContext) -> list[Loss]:
        labels, ignored = context.found[ANCHORED], self.space.ignore_index
        seen, weight = context.unlabeled.seen, self.settings.label_weight
        distance = self.distance(seen.features, labels.nearest, seen.logits)
        nearest, confident = (cross_entropy(seen.logits, each, ignored) for each in labels)
        return [
            Loss("anchor_labels", nearest, weight, NEAREST_PIXELS),
            Loss("confident_labels", confident, weight, CONFIDENT_PIXELS),
            Loss("anchor_distance_target", distance, self.settings.distance_weight),
        ]

    def modules(self) -> dict[str, nn.Module]:
        return {"anchors": self.anchors, "stage_start": self.frozen}
