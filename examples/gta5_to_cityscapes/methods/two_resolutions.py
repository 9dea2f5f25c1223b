"""Two resolutions (HRDA): the network's details are trained beside the logits that are fused from them."""

from __future__ import annotations

import torch
from torch import Tensor

import stuffinstance as si

from ..config import Weight
from ..models import NetworkOutput
from ..models.two_resolutions import upsampled_details
from .mean_teacher import TAUGHT
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext


class TwoResolutionsConfig(MethodConfig):
    """The weight of the details' own loss, relative to that of the fused logits. The default is that of HRDA."""

    weight: Weight = 0.1

    def uses_target(self) -> bool:
        return False


class TwoResolutions(Method):
    """Cross-entropy of the detail crop alone: by ground truth, and by the labels of ``mix`` and ``mask``.

    HRDA's weights of the two losses are 0.9 and 0.1; here the fused logits' loss counts fully (this pipeline's choice).
    As in HRDA's code the mean is over all pixels of the crop, with a label or not; class weights and FADA's temperature
    do not enter it.
    """

    group, config, rank = "two_resolutions", TwoResolutionsConfig, 54
    step_rank = 110  # behind the methods that train by the teacher's labels
    parts = (
        Part(
            "hrda",
            "two resolutions",
            "a half-size image and a full-size crop, fused by an attention (HRDA)",
            model_options={"resolutions": 2},
        ),
    )
    losses = {
        "details": "Two resolutions: cross-entropy of the details",
        "taught_details": "Two resolutions: cross-entropy of the details by the teacher's labels",
    }
    cost = 0.2  # half the pixels of a step without it, but windows in the teacher's passes and in each evaluation

    def __init__(self, config: TwoResolutionsConfig, setup: Setup) -> None:
        self.weight = config.weight
        self.stride = setup.network.stride
        self.ignore_index = setup.space.ignore_index

    def before(self, context: StepContext) -> None:
        context.found[TAUGHT] = []

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        ones = torch.ones(len(domain.labels), device=domain.labels.device)
        return [Loss("details", self.loss(domain.seen, domain.labels, ones), self.weight)]

    def on_target(self, context: StepContext) -> list[Loss]:
        return [
            Loss("taught_details", self.loss(output, labels, weights), self.weight * weight)
            for output, labels, weights, weight in context.found.pop(TAUGHT)
        ]

    def loss(self, output: NetworkOutput, labels: Tensor, weights: Tensor) -> Tensor:
        """Mean over the crop's pixels; ``weights`` are those of images (B,) or of their pixels (B, H, W)."""
        logits, crop = upsampled_details(output, (labels.shape[1], labels.shape[2]), self.stride)
        place = (slice(None), *crop)
        weights = weights[place] if weights.ndim == 3 else weights
        return si.weighted_cross_entropy(logits, labels[place], weights, self.ignore_index)
