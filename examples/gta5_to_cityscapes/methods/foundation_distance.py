"""Feature distance to a frozen foundation model (VFM-UDA++)."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

import stuffinstance as si

from ..config import Rate, Weight
from ..models import build_network, read_config
from .feature_distance import start_weights
from .method import Domain, Loss, Method, MethodConfig, Part, Setup, StepContext, discriminator_optimizer


class FoundationDistanceConfig(MethodConfig):
    """A projection of the features predicts those of a frozen foundation model, on both domains (VFM-UDA++).

    ``model``: a folder of the package transformers (DINOv2, DINOv3, BEiT), None for the network's own start weights.
    ``lr``: of the projection, by Adam.
    """

    weight: Weight = 0.1
    model: str | None = None
    lr: Rate = 1e-3


class FoundationDistance(Method):
    """The features determine those of a frozen foundation model, on images without changes of color (VFM-UDA++)."""

    group, config, rank = "foundation_distance", FoundationDistanceConfig, 86
    parts = (Part("ffd", "FFD", "feature distance to a foundation model (VFM-UDA++)"),)
    losses = {
        "foundation_distance_source": "Foundation feature distance, source",
        "foundation_distance_target": "Foundation feature distance, target",
    }
    needs_forward = True
    cost = 0.6

    def __init__(self, config: FoundationDistanceConfig, setup: Setup) -> None:
        self.settings = config
        network, device = setup.network, setup.device
        self.foundation = start_weights(setup) if config.model is None else foundation_model(config.model).to(device)
        dim = self.foundation(torch.zeros(1, 3, 64, 64, device=device)).last_stage.shape[1]
        self.loss = si.FoundationFeatureLoss(network.feature_dim, dim).to(device)
        self.optimizer = discriminator_optimizer(self.loss, config.lr, (0.9, 0.999))

    def on_labeled(self, context: StepContext) -> list[Loss]:
        return [self._distance("source", context.labeled)]

    def on_target(self, context: StepContext) -> list[Loss]:
        return [self._distance("target", context.unlabeled)]

    def _distance(self, name: str, domain: Domain) -> Loss:
        wanted = self.foundation(domain.images if domain.plain is None else domain.plain).last_stage
        value = self.loss(domain.seen.features, wanted)
        return Loss(f"foundation_distance_{name}", value, self.settings.weight)

    def modules(self) -> dict[str, nn.Module]:
        return {"foundation_projection": self.loss}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"foundation_projection": self.optimizer}


def foundation_model(folder: str) -> si.FrozenNetwork:
    """The transformer in a folder, with the normalization of its images."""
    return si.FrozenNetwork(build_network("vit", 1, weights=folder, config=read_config(folder), head="linear"))
