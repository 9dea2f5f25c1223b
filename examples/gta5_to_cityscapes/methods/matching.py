"""Stuff and instance matching (SIM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import nn

import stuffinstance as si

from ..config import Count, Step, Weight
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext

if TYPE_CHECKING:
    from typing import Self


class MatchingConfig(MethodConfig):
    """SIM: stuff and instance matching, Eq. 4 to 8 and 11; ``second_stage_weight`` is used beside pseudo-labels."""

    weight: Weight = 0.01
    second_stage_weight: Weight = 0.001
    preset: Literal["code", "paper"] = "code"
    capacity: Count = 50
    max_instances: Count = 10
    agreement: bool = True
    start_step: Step = 0

    def in_recipe(self, *, round: int, relabeled: bool) -> Self:
        return self.model_copy(update={"weight": self.second_stage_weight}) if relabeled else self


class StuffInstanceAlignment(Method):
    """Target features are pulled towards source features of their class (Eq. 4 to 8; Eq. 11 with pseudo-labels)."""

    group, config, rank = "matching", MatchingConfig, 60
    step_rank = 30
    parts = (Part("sim", "SIM", "stuff and instance matching"),)
    presets = {"small": MatchingConfig(capacity=20), "smoke": MatchingConfig(capacity=4)}
    losses = {
        "stuff": "Stuff matching",
        "instance": "Instance matching",
    }
    needs_forward = True
    cost = 0.3

    def __init__(self, config: MatchingConfig, setup: Setup) -> None:
        self.settings = config
        self.pseudo_labels = "pseudo_labels" in setup.recipe.methods
        self.sim = si.StuffInstanceMatching(
            setup.space,
            feature_dim=setup.network.feature_dim,
            preset=config.preset,
            capacity=config.capacity,
            max_instances=config.max_instances,
            classifier=setup.network.classify if config.agreement else None,
        ).to(setup.device)

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        self.sim.update(domain.seen.features.detach(), domain.labels, domain.seen.logits.detach())
        return []

    def on_target(self, context: StepContext) -> list[Loss]:
        if context.step < self.settings.start_step:
            return []
        domain = context.unlabeled
        labels = domain.labels if self.pseudo_labels else None
        losses = self.sim(domain.seen.features, domain.seen.logits, labels)
        weight = self.settings.weight
        return [Loss("stuff", losses.stuff, weight), Loss("instance", losses.instance, weight)]

    def modules(self) -> dict[str, nn.Module]:
        return {"sim": self.sim}
