"""Adversarial alignment of the network's output, at one level or two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import stuffinstance as si

from ..recipes.settings import OutputAdversarialConfig
from ..training.optimizers import discriminator_optimizer
from .method import Domain, Loss, Method, StepContext


class OutputAlignment(Method):
    """Eq. 2 and 3: the target's output should look like the source's to a discriminator.

    Two of them, one on the auxiliary head, are AdaptSegNet's two levels; ``of="entropy"`` is ADVENT.
    """

    needs_target = True

    def __init__(
        self, settings: OutputAdversarialConfig, num_classes: int, device: torch.device, *, auxiliary: bool = False
    ) -> None:
        self.settings = settings
        self.auxiliary = auxiliary
        self.prefix = "auxiliary_" if auxiliary else ""
        self.weight = settings.auxiliary_weight if auxiliary else settings.weight
        self.discriminator = si.OutputDiscriminator(num_classes, width=settings.width).to(device)
        self.loss = si.OutputAdversarialLoss(self.discriminator, form=settings.form, of=settings.of)
        self.optimizer = discriminator_optimizer(self.discriminator, settings.lr, settings.betas)

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        self.discriminator.requires_grad_(False)  # fooling it must not train it
        value = self.loss.generator(self._logits(context.unlabeled))
        return [Loss(f"{self.prefix}adversarial", value, self.weight)]

    def on_own_network(self, context: StepContext) -> list[Loss]:
        # It learns from the first step on, so that it has something to say when its weight begins.
        self.discriminator.requires_grad_(True)
        source, target = self._logits(context.labeled), self._logits(context.unlabeled)
        return [Loss(f"{self.prefix}discriminator", self.loss.discriminator(source.detach(), target.detach()))]

    def _logits(self, domain: Domain) -> Tensor:
        scale = self.settings.scale
        return domain.auxiliary_logits(scale) if self.auxiliary else domain.logits(scale)

    def modules(self) -> dict[str, nn.Module]:
        return {f"{self.prefix}discriminator": self.discriminator}

    def optimizers(self) -> dict[str, Optimizer]:
        return {f"{self.prefix}discriminator": self.optimizer}
