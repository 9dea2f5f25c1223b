"""Two resolutions (HRDA): the network's details are trained beside the logits that are fused from them."""

from __future__ import annotations

import torch
from torch import Tensor

import stuffinstance as si

from ..config import Weight
from ..models import NetworkOutput
from ..models.two_resolutions import crop_of
from .mean_teacher import TAUGHT
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext


class TwoResolutionsConfig(MethodConfig):
    """The weight of the details' own loss, beside that of the fused logits. The default is that of HRDA."""

    weight: Weight = 0.1

    def uses_target(self) -> bool:
        return False


class TwoResolutions(Method):
    """Cross-entropy of the detail crop alone: by ground truth, and by the teacher's labels where a method has them.

    HRDA's weights of the two losses are 0.9 and 0.1; here the fused logits' loss counts fully (this library's choice).
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

    def __init__(self, config: TwoResolutionsConfig, setup: Setup) -> None:
        self.weight = config.weight
        self.stride = setup.network.stride
        self.ignore_index = setup.space.ignore_index

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        ones = torch.ones(len(domain.labels), device=domain.labels.device)
        return [Loss("details", self.loss(domain.seen, domain.labels, ones), self.weight)]

    def on_target(self, context: StepContext) -> list[Loss]:
        taught = context.found.pop(TAUGHT, [])
        values = [self.loss(output, labels, weights) for output, labels, weights in taught]
        return [Loss("taught_details", sum(values[1:], values[0]), self.weight)] if values else []

    def loss(self, output: NetworkOutput, labels: Tensor, weights: Tensor) -> Tensor:
        """Mean over the crop's pixels; ``weights`` are those of images (B,) or of their pixels (B, H, W)."""
        if output.details is None:
            raise RuntimeError("the network saw one resolution only; hrda needs network.options.resolutions=2")
        crop = crop_of(output.corner, (output.details.shape[2], output.details.shape[3]), self.stride)
        labels = labels[crop]
        logits = torch.nn.functional.interpolate(
            output.details.float(), labels.shape[1:], mode="bilinear", align_corners=False
        )
        return si.weighted_cross_entropy(
            logits, labels, weights[crop] if weights.ndim == 3 else weights, self.ignore_index
        )
