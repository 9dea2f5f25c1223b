"""Feature distance of things to the start weights (DAFormer)."""

from __future__ import annotations

import torch

import stuffinstance as si

from ..config import Share, Weight
from ..models import build_network
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext


class FeatureDistanceConfig(MethodConfig):
    """The distance of source features of things to those of the start weights (DAFormer)."""

    weight: Weight = 0.005
    min_fraction: Share = 0.75

    def uses_target(self) -> bool:
        return False


class FeatureDistance(Method):
    """Features of things, in the encoder's last stage and the source, stay near those of the start weights (DAFormer).

    The network must have start weights that know things, an ImageNet classifier's say.
    """

    group, config, rank = "feature_distance", FeatureDistanceConfig, 85
    parts = (Part("fd", "FD", "feature distance of things to the start weights (DAFormer)"),)
    losses = {"feature_distance": "Feature distance of things"}
    cost = 0.3

    def __init__(self, config: FeatureDistanceConfig, setup: Setup) -> None:
        self.settings = config
        self.start = start_weights(setup)
        space = setup.space
        self.loss = si.FeatureDistanceLoss(
            space.things, space.num_classes, config.min_fraction, ignore_index=space.ignore_index
        )

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        start = self.start(domain.images).last_stage
        value = self.loss(domain.seen.last_stage, start, domain.labels)
        return [Loss("feature_distance", value, self.settings.weight)]


def start_weights(setup: Setup) -> si.FrozenNetwork:
    """The network as a run of this seed starts, whichever weights a stage or a checkpoint has put into it since.

    Made anew each time, so that no checkpoint holds it; other random draws stay what they are.
    """
    recipe = setup.recipe
    with torch.random.fork_rng(devices=[]):  # networks are built on the CPU
        torch.default_generator.manual_seed(recipe.seed)
        network = build_network(
            recipe.network.name, setup.space.num_classes, weights=recipe.network.weights, **recipe.network.options
        )
    network.context_only = True  # of two resolutions; the features that are compared are those of the half-size image
    return si.FrozenNetwork(network).to(setup.device)
