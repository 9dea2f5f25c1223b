"""One update of the discriminator and one of the generator, for both directions together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stuffinstance.self_training import MeanTeacher

from .losses import domain_loss, real_fake_loss, reconstruction_loss, segmentation_consistency
from .networks import Discriminator, Generator, in_channels_last
from .settings import Settings

Segment = Callable[[Tensor], Tensor]  # images (B, 3, H, W) to logits (B, K, h, w)


class TranslationStep(nn.Module):
    """Generator, its running mean, discriminator and both optimizers.

    Args:
        settings: Sizes, learning rate and weights.
        segment: The frozen segmentation of the consistency loss, or None.
    """

    def __init__(self, settings: Settings, segment: Segment | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.segment = segment
        self.generator = in_channels_last(Generator(settings.width, settings.blocks))
        self.discriminator = in_channels_last(Discriminator())
        self.average = MeanTeacher(self.generator, settings.average)
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), settings.lr, betas=(0.5, 0.999)),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), settings.lr, betas=(0.5, 0.999)),
        }

    def forward(self, source: Tensor, target: Tensor, step: int) -> dict[str, Tensor]:
        """Learn from images of both domains, (B, 3, h, w) in [0, 1] each; the losses, without their weights."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.settings.learning_rate(step)
        real = torch.cat([source, target]).contiguous(memory_format=torch.channels_last)
        domain = (torch.arange(len(real), device=real.device) >= len(source)).long()  # 0 source, then 1 target
        made = self.generator(real, 1 - domain)
        losses = self._teach_discriminator(real, domain, made.detach())
        losses |= self._teach_generator(real, domain, made, self._noise(made, step))
        self.average.update(self.generator)
        return {name: value.detach() for name, value in losses.items()}

    def _teach_discriminator(self, real: Tensor, domain: Tensor, made: Tensor) -> dict[str, Tensor]:
        of_real, of_made = self.discriminator(real), self.discriminator(made)
        seen = (real_fake_loss(of_real, domain, real=True) + real_fake_loss(of_made, 1 - domain, real=False)) / 2
        named = domain_loss(of_real, domain)
        self._update("discriminator", self.settings.real_fake * seen + self.settings.domain * named)
        return {"discriminator_real_fake": seen, "discriminator_domain": named}

    def _teach_generator(self, real: Tensor, domain: Tensor, made: Tensor, noise: Tensor) -> dict[str, Tensor]:
        weights = self.settings
        with _frozen(self.discriminator):
            judged = self.discriminator(made)
        losses = {
            "real_fake": real_fake_loss(judged, 1 - domain, real=True),
            "domain": domain_loss(judged, 1 - domain),
            "reconstruction": reconstruction_loss(real, self.generator(made + noise, domain)),
        }
        total = (
            weights.real_fake * losses["real_fake"]
            + weights.domain * losses["domain"]
            + weights.reconstruction * losses["reconstruction"]
        )
        if weights.identity:
            losses["identity"] = reconstruction_loss(real, self.generator(real, domain))
            total = total + weights.identity * losses["identity"]
        if self.segment is not None:
            with torch.no_grad():
                before = self.segment(real)
            losses["consistency"] = segmentation_consistency(before, self.segment(made))
            total = total + weights.consistency * losses["consistency"]
        self._update("generator", total)
        return losses

    def _noise(self, made: Tensor, step: int) -> Tensor:
        """Drawn on the CPU from seed and step alone, so that a resumed training draws the same."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        return self.settings.noise * torch.randn(made.shape, generator=generator).to(made.device)

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers[name].step()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module without being gathered in it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
