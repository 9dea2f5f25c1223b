"""Stuff and instance matching (SIM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import nn

from ..config import Weight
from .method import Loss, Part, Setup, StepContext
from .source_banks import SourceBanks, SourceBanksConfig

if TYPE_CHECKING:
    from typing import Self


class MatchingConfig(SourceBanksConfig):
    """SIM: stuff and instance matching, Eq. 4 to 8 and 11; ``second_stage_weight`` is used beside pseudo-labels."""

    weight: Weight = 0.01
    second_stage_weight: Weight = 0.001
    preset: Literal["code", "paper"] = "code"

    def in_recipe(self, *, round: int, relabeled: bool) -> Self:
        return self.model_copy(update={"weight": self.second_stage_weight}) if relabeled else self


class StuffInstanceAlignment(SourceBanks):
    """Target features are pulled towards source features of their class (Eq. 4 to 8; Eq. 11 with pseudo-labels)."""

    group, config, rank = "matching", MatchingConfig, 60
    step_rank = 30
    parts = (Part("sim", "SIM", "stuff and instance matching"),)
    presets = {"small": MatchingConfig(capacity=20), "smoke": MatchingConfig(capacity=4)}
    losses = {
        "stuff": "Stuff matching",
        "instance": "Instance matching",
    }

    def __init__(self, config: MatchingConfig, setup: Setup) -> None:
        super().__init__(config, setup, preset=config.preset)

    def on_target(self, context: StepContext) -> list[Loss]:
        settings, domain = self.settings, context.unlabeled
        if context.step < settings.start_step:
            return []
        if settings.labels == "prediction":
            pseudo = domain.labels if self.pseudo_labels else None
            stuff, instance = self.sim(domain.seen.features, domain.seen.logits, pseudo)
        else:
            features, labels = domain.seen.features, self.target_labels(context)
            stuff, instance = self.sim.stuff_loss(features, labels), self.sim.instance_loss(features, labels)
        return [Loss("stuff", stuff, settings.weight), Loss("instance", instance, settings.weight)]

    def modules(self) -> dict[str, nn.Module]:
        return {"sim": self.sim}
