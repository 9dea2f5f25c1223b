"""Self-training on pseudo-labels: SSL of SIM, CBST, CRST, IAST, FADA's distillation, symmetric adaptation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor

import stuffinstance as si

from ..config import Share, Weight
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext
from .segmentation import cross_entropy, labeled_pixels

if TYPE_CHECKING:
    from typing import Self

    from ..recipes import Recipe

PSEUDO_PIXELS = "pseudo-labeled pixels"


class PseudoLabelConfig(MethodConfig):
    """SSL: Eq. 9 and 10, on the labels that the first-stage network gives the target training images.

    ``rule`` decides which labels are kept: above class medians (SIM, ``quantile`` and ``cap``), all of them (FADA),
    the most confident ``portion`` of each class (CBST), above adaptive thresholds (IAST, ``alpha``, ``beta``,
    ``gamma``), or those that two models agree on (symmetric adaptation, ``quantile``, ``cap`` and ``consistency``).
    Each round of CBST adds ``portion_step`` to the portion. ``divergence`` is the weight of CRST's MRKLD term.
    ``loss="symmetric"`` is symmetric cross-entropy with ProDA's weights, for labels that may be wrong.
    """

    weight: Weight = 1.0
    loss: Literal["cross_entropy", "symmetric"] = "cross_entropy"
    rule: Literal["median", "argmax", "portion", "adaptive", "symmetric"] = "median"
    quantile: Share = 0.5
    cap: Share = 0.9
    portion: float = Field(default=0.2, gt=0.0, le=1.0)
    portion_step: Share = 0.05
    largest_portion: float = Field(default=0.5, gt=0.0, le=1.0)
    divergence: Weight = 0.0
    alpha: Share = 0.2
    beta: Share = 0.9
    gamma: Weight = 8.0
    consistency: Literal["l1", "agreement"] = "l1"

    def in_recipe(self, *, round: int, relabeled: bool) -> Self:
        grown = min(self.portion + self.portion_step * (round - 1), self.largest_portion)
        return self.model_copy(update={"portion": grown})

    def check(self, recipe: Recipe) -> None:
        takes = 2 if self.rule == "symmetric" else 1
        if recipe.labeled_by and takes != len(recipe.labeled_by):
            raise ValueError(
                f"pseudo_labels.rule={self.rule} takes the labels of {takes} network{'s'[: takes - 1]}, "
                f"{recipe.name} has those of {' and '.join(recipe.labeled_by)}; omit the setting, and take the part "
                "sym for labels that two agree on"
            )


class PseudoLabelSegmentation(Method):
    """Cross-entropy on the target with the labels of earlier networks (SIM, Eq. 10); CRST adds a divergence."""

    group, config, rank = "pseudo_labels", PseudoLabelConfig, 110
    step_rank = 20
    parts = (
        Part("ssl", "SSL", "a second stage on pseudo-labels above class medians", kind="labeling", rounds=True),
        Part("distill", "distillation", "a second stage on all labels (FADA)", {"rule": "argmax"}, kind="labeling"),
        Part("cbst", "CBST", "a round of CBST", {"rule": "portion"}, kind="labeling", rounds=True),
        Part(
            "crst",
            "CRST",
            "a round of CBST with a confidence regularizer (CRST, MRKLD)",
            {"rule": "portion", "divergence": 0.1},
            kind="labeling",
            rounds=True,
        ),
        Part("iast", "IAST", "a round on adaptive thresholds (IAST)", {"rule": "adaptive"}, kind="labeling"),
        Part(
            "sym",
            "symmetric",
            "labels that two models agree on",
            {"rule": "symmetric"},
            kind="labeling",
            two_models=True,
        ),
    )
    losses = {
        "pseudo": "Pseudo-labels: cross-entropy",
        "divergence": "Confidence regularizer (CRST)",
    }
    needs_forward = True

    def __init__(self, config: PseudoLabelConfig, setup: Setup) -> None:
        self.settings = config
        self.ignore_index = setup.space.ignore_index

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        return {PSEUDO_PIXELS: labeled_pixels(context.unlabeled.labels, self.ignore_index)}

    def on_target(self, context: StepContext) -> list[Loss]:
        domain, weight = context.unlabeled, self.settings.weight
        loss = cross_entropy if self.settings.loss == "cross_entropy" else si.symmetric_cross_entropy
        value = loss(domain.logits(), domain.labels, self.ignore_index)
        losses = [Loss("pseudo", value, weight, PSEUDO_PIXELS)]
        if self.settings.divergence:
            kept = domain.labels != self.ignore_index
            divergence = si.mrkld_regularizer(domain.logits(), kept, weight=1.0)
            losses.append(Loss("divergence", divergence, weight * self.settings.divergence, PSEUDO_PIXELS))
        return losses


class FusionConfig(MethodConfig):
    """The fusion of two trained models has no settings."""

    def uses_target(self) -> bool:
        return False


class Fusion(Method):
    """The mean of the probabilities of both symmetric models; nothing is trained."""

    group, config, rank = "fusion", FusionConfig, 120
    parts = (
        Part("fused", "fused", "the mean of both symmetric models, nothing trained", kind="fusion", two_models=True),
    )
