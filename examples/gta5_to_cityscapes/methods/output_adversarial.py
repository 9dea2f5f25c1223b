"""Adversarial alignment of the network's output, at one level or two (AdaptSegNet, ADVENT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

import stuffinstance as si

from ..config import Count, Decay, Rate, Step, Weight
from .method import Domain, Loss, Method, MethodConfig, Part, Setup, StepContext, discriminator_optimizer
from .segmentation import LABELED_PIXELS, cross_entropy

if TYPE_CHECKING:
    from ..recipes import Recipe

SMALLEST_SIDE = 32  # of what a discriminator of five convolutions of stride 2 takes


class OutputAdversarialConfig(MethodConfig):
    """Output-space adversarial alignment (SIM, Eq. 2 and 3).

    The discriminator sees the logits at ``scale`` times the image's size. With two ``levels`` the network's auxiliary
    head is trained and aligned too, with weights of its own (AdaptSegNet). The loss counts from ``start_step`` on.
    """

    weight: Weight = 0.001
    objective: Literal["bce", "least_squares"] = "bce"
    of: Literal["probabilities", "entropy"] = "probabilities"
    levels: Literal[1, 2] = 1
    auxiliary_weight: Weight = 0.0002
    auxiliary_segmentation: Weight = 0.1
    width: Count = 64
    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    scale: float = Field(default=1.0, gt=0.0, le=1.0)
    start_step: Step = 0

    def check(self, recipe: Recipe) -> None:
        for field, size in recipe.trained_sizes.items():
            seen = [max(1, round(self.scale * side)) for side in size]
            if min(seen) < SMALLEST_SIDE:
                raise ValueError(
                    f"adversarial: the discriminator halves its input five times and needs at least {SMALLEST_SIDE} "
                    f"pixels a side, got {seen} (height, width) from data.{field} and augmentation.crop, times "
                    f"adversarial.scale ({self.scale:g}); set them larger"
                )
        if self.levels == 2 and not recipe.network.options.get("auxiliary"):
            raise ValueError(
                "adversarial.levels=2 aligns an auxiliary head too, which the network does not have; take the part asn "
                "in place of aa, or set network.options.auxiliary=true"
            )


class _Level:
    """A discriminator of one head's output."""

    def __init__(self, config: OutputAdversarialConfig, setup: Setup, *, auxiliary: bool) -> None:
        self.scale = config.scale
        self.auxiliary = auxiliary
        self.prefix = "auxiliary_" if auxiliary else ""
        self.weight = config.auxiliary_weight if auxiliary else config.weight
        self.discriminator = si.OutputDiscriminator(setup.space.num_classes, width=config.width).to(setup.device)
        self.loss = si.OutputAdversarialLoss(self.discriminator, objective=config.objective, of=config.of)
        self.optimizer = discriminator_optimizer(self.discriminator, config.lr, config.betas)

    def logits(self, domain: Domain) -> Tensor:
        return domain.auxiliary_logits(self.scale) if self.auxiliary else domain.logits(self.scale)


class OutputAlignment(Method):
    """The target's output should look like the source's to a discriminator; ``of="entropy"`` is ADVENT."""

    group, config, rank = "adversarial", OutputAdversarialConfig, 10
    step_rank = 50
    parts = (
        Part("aa", "AA", "adversarial alignment of the output"),
        Part("asn", "AdaptSegNet", "the same at two levels (AdaptSegNet)", {"levels": 2}, {"auxiliary": True}),
        Part("advent", "ADVENT", "adversarial alignment of entropy maps (ADVENT)", {"of": "entropy"}),
    )
    presets = {
        "small": OutputAdversarialConfig(weight=0.003, width=16, scale=0.5, start_step=200),
        "smoke": OutputAdversarialConfig(weight=0.003, width=4),
    }
    losses = {
        "adversarial": "Adversarial: generator",
        "discriminator": "Discriminator (chance: 0.69)",
        "auxiliary_adversarial": "Auxiliary head: generator",
        "auxiliary_discriminator": "Auxiliary discriminator",
        "auxiliary_segmentation": "Auxiliary head: cross-entropy",
    }
    needs_forward = True

    def __init__(self, config: OutputAdversarialConfig, setup: Setup) -> None:
        self.settings = config
        self.ignore_index, self.pixels = setup.space.ignore_index, setup.class_pixels
        self.levels = [_Level(config, setup, auxiliary=auxiliary) for auxiliary in (False, True)[: config.levels]]

    def on_labeled(self, context: StepContext) -> list[Loss]:
        if self.settings.levels == 1:
            return []
        domain = context.labeled
        loss = cross_entropy(domain.auxiliary_logits(), domain.labels, self.ignore_index, self.pixels.weights)
        return [Loss("auxiliary_segmentation", loss, self.settings.auxiliary_segmentation, LABELED_PIXELS)]

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        losses = []
        for level in self.levels:
            level.discriminator.requires_grad_(False)  # fooling it must not train it
            value = level.loss.generator_loss(level.logits(context.unlabeled))
            losses.append(Loss(f"{level.prefix}adversarial", value, level.weight))
        return losses

    def on_own_network(self, context: StepContext) -> list[Loss]:
        # It learns from the first step on, so that it is of use when its weight begins to count.
        losses = []
        for level in self.levels:
            level.discriminator.requires_grad_(True)
            source, target = level.logits(context.labeled), level.logits(context.unlabeled)
            value = level.loss.discriminator_loss(source, target)
            losses.append(Loss(f"{level.prefix}discriminator", value))
        return losses

    def modules(self) -> dict[str, nn.Module]:
        return {f"{level.prefix}discriminator": level.discriminator for level in self.levels}

    def optimizers(self) -> dict[str, Optimizer]:
        return {f"{level.prefix}discriminator": level.optimizer for level in self.levels}
