"""FADA: adversarial alignment of features, class by class."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

import stuffinstance as si

from ...recipes.settings import FineGrained
from ..optimisers import discriminator_optimiser
from .term import Loss, Passes, Term


class FineGrainedAlignment(Term):
    """A discriminator of domain and class on the feature map, told which class by the network's own softmax."""

    needs_target = True

    def __init__(self, settings: FineGrained, feature_dim: int, num_classes: int, device: torch.device) -> None:
        self.settings = settings
        self.discriminator = si.FineGrainedDiscriminator(feature_dim, num_classes, width=settings.width).to(device)
        self.loss = si.FineGrainedAdversarialLoss(
            temperature=settings.temperature, clip=settings.clip, encoding=settings.encoding
        )
        self.optimiser = discriminator_optimiser(self.discriminator, settings.lr, settings.betas)

    def on_target(self, passes: Passes) -> list[Loss]:
        if passes.step < self.settings.begin:
            return []
        self.discriminator.requires_grad_(False)  # fooling it must not train it
        target = passes.unlabelled
        value = self.loss.generator(self.discriminator(target.seen.features), target.logits())
        return [Loss("fine_grained", value, self.settings.weight)]

    def on_own_network(self, passes: Passes) -> list[Loss]:
        self.discriminator.requires_grad_(True)
        source, target = passes.labelled, passes.unlabelled
        value = self.loss.discriminator(
            self.discriminator(source.seen.features.detach()),
            source.logits().detach(),
            self.discriminator(target.seen.features.detach()),
            target.logits().detach(),
        )
        return [Loss("fine_grained_discriminator", value)]

    def modules(self) -> dict[str, nn.Module]:
        return {"fine_grained_discriminator": self.discriminator}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"fine_grained_discriminator": self.optimiser}
