"""Contrast of target pixels with the rows of stuff and instance banks (SePiCo's BankCL)."""

from __future__ import annotations

from torch import nn

import stuffinstance as si

from ..config import Rate, Weight
from .method import Loss, Part, Setup, StepContext
from .source_banks import SourceBanks, SourceBanksConfig


class BankContrastConfig(SourceBanksConfig):
    """Target pixels to the rows of their class, away from the mean rows of others; SePiCo's weight and temperature."""

    weight: Weight = 1.0
    temperature: Rate = 100.0
    normalize: bool = True


class BankContrast(SourceBanks):
    """Target pixels are pulled towards bank rows of their class and pushed from those of others (SePiCo)."""

    group, config, rank = "bank_contrast", BankContrastConfig, 61
    step_rank = 31
    parts = (Part("bcon", "bank contrast", "pixels contrasted with bank rows (SePiCo)"),)
    presets = {"small": BankContrastConfig(capacity=20, temperature=0.1), "smoke": BankContrastConfig(capacity=4)}
    losses = {"bank_contrast": "Bank contrast"}

    def __init__(self, config: BankContrastConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        banks = self.sim.stuff_bank, self.sim.instance_bank
        self.loss = si.BankContrastLoss(banks, config.temperature, normalize=config.normalize)

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        value = self.loss(context.unlabeled.seen.features, self.target_labels(context))
        return [Loss("bank_contrast", value, self.settings.weight)]

    def modules(self) -> dict[str, nn.Module]:
        return {"bank_contrast": self.sim}
