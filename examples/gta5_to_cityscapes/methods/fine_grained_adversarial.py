"""Fine-grained adversarial alignment of features, class by class (FADA)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn
from torch.optim import Optimizer

import stuffinstance as si

from ..config import LARGEST, Decay, Rate, Step, Weight
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext, discriminator_optimizer


class FineGrainedConfig(MethodConfig):
    """FADA: a discriminator of domains and classes on the features; the source is trained at ``temperature`` too."""

    weight: Weight = 0.001
    width: int = Field(default=256, ge=2, le=LARGEST, multiple_of=2)
    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    temperature: Rate = 1.8
    clip: float = Field(default=0.9, gt=0.0, le=1.0)
    encoding: Literal["soft", "hard"] = "soft"
    start_step: Step = 0


class FineGrainedAlignment(Method):
    """A discriminator of domain and class on the feature map, with the network's own softmax as the class."""

    group, config, rank = "fine_grained", FineGrainedConfig, 90
    step_rank = 60
    parts = (Part("fada", "FADA", "fine-grained adversarial alignment of features (FADA)", kind="stage"),)
    presets = {
        "small": FineGrainedConfig(weight=0.003, width=64, start_step=200),
        "smoke": FineGrainedConfig(weight=0.003, width=8),
    }
    losses = {
        "fine_grained": "Fine-grained: generator (FADA)",
        "fine_grained_discriminator": "Fine-grained discriminator",
    }
    needs_forward = True
    cost = 0.8

    def __init__(self, config: FineGrainedConfig, setup: Setup) -> None:
        self.settings = config
        self.labeled_temperature = config.temperature
        self.discriminator = si.FineGrainedDiscriminator(
            setup.network.feature_dim, setup.space.num_classes, width=config.width
        ).to(setup.device)
        self.loss = si.FineGrainedAdversarialLoss(
            self.discriminator, temperature=config.temperature, clip=config.clip, encoding=config.encoding
        )
        self.optimizer = discriminator_optimizer(self.discriminator, config.lr, config.betas)

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        self.discriminator.requires_grad_(False)  # fooling it must not train it
        target = context.unlabeled
        value = self.loss.generator_loss(target.seen.features, target.logits())
        return [Loss("fine_grained", value, self.settings.weight)]

    def on_own_network(self, context: StepContext) -> list[Loss]:
        self.discriminator.requires_grad_(True)
        source, target = context.labeled, context.unlabeled
        value = self.loss.discriminator_loss(
            source.seen.features, source.logits(), target.seen.features, target.logits()
        )
        return [Loss("fine_grained_discriminator", value)]

    def modules(self) -> dict[str, nn.Module]:
        return {"fine_grained_discriminator": self.discriminator}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"fine_grained_discriminator": self.optimizer}
