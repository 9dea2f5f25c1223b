"""FADA: adversarial alignment of features, class by class."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

import stuffinstance as si

from ..recipes.settings import FineGrainedConfig
from ..training.optimizers import discriminator_optimizer
from .method import Loss, Method, StepContext


class FineGrainedAlignment(Method):
    """A discriminator of domain and class on the feature map, told which class by the network's own softmax."""

    needs_target = True

    def __init__(self, settings: FineGrainedConfig, feature_dim: int, num_classes: int, device: torch.device) -> None:
        self.settings = settings
        self.discriminator = si.FineGrainedDiscriminator(feature_dim, num_classes, width=settings.width).to(device)
        self.loss = si.FineGrainedAdversarialLoss(
            temperature=settings.temperature, clip=settings.clip, encoding=settings.encoding
        )
        self.optimizer = discriminator_optimizer(self.discriminator, settings.lr, settings.betas)

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        self.discriminator.requires_grad_(False)  # fooling it must not train it
        target = context.unlabeled
        value = self.loss.generator(self.discriminator(target.seen.features), target.logits())
        return [Loss("fine_grained", value, self.settings.weight)]

    def on_own_network(self, context: StepContext) -> list[Loss]:
        self.discriminator.requires_grad_(True)
        source, target = context.labeled, context.unlabeled
        value = self.loss.discriminator(
            self.discriminator(source.seen.features.detach()),
            source.logits().detach(),
            self.discriminator(target.seen.features.detach()),
            target.logits().detach(),
        )
        return [Loss("fine_grained_discriminator", value)]

    def modules(self) -> dict[str, nn.Module]:
        return {"fine_grained_discriminator": self.discriminator}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"fine_grained_discriminator": self.optimizer}
