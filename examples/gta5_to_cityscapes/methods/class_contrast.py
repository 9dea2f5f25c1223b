"""Contrast of both domains' pixels with class distributions (SePiCo) and class prototypes (ProCA, CONFETI)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

import stuffinstance as si

from ..config import LARGEST, Count, Rate, Step, Weight
from .mean_teacher import TEACHER
from .method import Loss, Method, MethodConfig, Part, Setup, StepContext, discriminator_optimizer

Statistics = si.ClassDistributions | si.CategoryAnchors


class ContrastConfig(MethodConfig):
    """What both have: the weight in each domain, and a projection of the features (none where its dimension is 0)."""

    weight: Weight = 1.0
    temperature: Rate
    start_step: Step = 3000
    projection_dim: int = Field(default=512, ge=0, le=LARGEST)
    lr: Rate = 1e-4


class ClassContrast(Method):
    """Source pixels with ground truth, target pixels with pseudo-labels where they have one, else :meth:`predicted`.

    The statistics are those of the network's own source features, projected, without gradient: those of SePiCo are the
    teacher's, which takes one more pass of the source and a second projection. A step is compared with the statistics
    of the steps before it, whatever it is cut into. They are counted from the first step on; the losses begin at
    ``start_step``.
    """

    requires = ("teacher",)
    needs_forward = True
    cost = 0.3

    def __init__(self, config: ContrastConfig, setup: Setup) -> None:
        self.settings, self.ignore_index = config, setup.space.ignore_index
        channels, self.projection = setup.network.feature_dim, nn.Sequential()
        if config.projection_dim:
            layers = (
                nn.Conv2d(channels, config.projection_dim, 1),
                nn.ReLU(),
                nn.Conv2d(*[config.projection_dim] * 2, 1),
            )
            channels, self.projection = config.projection_dim, nn.Sequential(*layers).to(setup.device)
        self.used, self.latest = (self.statistics(setup.space, channels).to(setup.device) for _ in range(2))
        self.loss = self.contrast(self.used)
        self.own = {f"{self.group}_projection": self.projection} if config.projection_dim else {}
        self.own_optimizers = {
            name: discriminator_optimizer(module, config.lr, (0.9, 0.999)) for name, module in self.own.items()
        }

    def statistics(self, space: si.LabelSpace, channels: int) -> Statistics:
        """New statistics of features of so many channels."""
        raise NotImplementedError

    def contrast(self, statistics: Statistics) -> nn.Module:
        """The loss that reads them."""
        raise NotImplementedError

    def before(self, context: StepContext) -> None:
        for used, latest in zip(self.used.buffers(), self.latest.buffers(), strict=True):
            used.copy_(latest)

    def on_labeled(self, context: StepContext) -> list[Loss]:
        domain = context.labeled
        features = self.projection(domain.seen.features)
        self.latest.update(features.detach(), domain.labels)
        return self._losses("source", context.step, features, domain.labels)

    def on_target(self, context: StepContext) -> list[Loss]:
        domain = context.unlabeled
        features = self.projection(domain.seen.features)
        labels = si.merge_pseudo_labels(self.predicted(context, features), domain.labels, self.ignore_index)
        return self._losses("target", context.step, features, labels)

    def predicted(self, context: StepContext, features: Tensor) -> Tensor:
        """The teacher's labels, for the target where it has no pseudo-labels; at the size of images or of features."""
        labels: Tensor = context.found[TEACHER].labels
        return labels

    def _losses(self, domain: str, step: int, features: Tensor, labels: Tensor) -> list[Loss]:
        if step < self.settings.start_step:
            return []
        return [Loss(f"{self.group}_{domain}", self.loss(features, labels), self.settings.weight)]

    def modules(self) -> dict[str, nn.Module]:
        return {self.group: self.latest, **self.own}

    def optimizers(self) -> dict[str, Optimizer]:
        return self.own_optimizers


class DistributionContrastConfig(ContrastConfig):
    """SePiCo: contrast with the mean and variance of every class; ``ratio`` is the weight of the variances."""

    temperature: Rate = 100.0
    ratio: Weight = 1.0
    regularizer: Weight = 1.0


class DistributionContrast(ClassContrast):
    """Contrast with the distributions of all classes (SePiCo)."""

    group, config, rank = "distribution_contrast", DistributionContrastConfig, 84
    step_rank = 33
    parts = (Part("dcon", "distribution contrast", "contrast with class distributions (SePiCo)"),)
    presets = {
        "small": DistributionContrastConfig(start_step=200, projection_dim=64, lr=1e-3),
        "smoke": DistributionContrastConfig(start_step=0, projection_dim=8, lr=1e-3),
    }
    losses = {
        "distribution_contrast_source": "Distribution contrast: source",
        "distribution_contrast_target": "Distribution contrast: target",
    }

    def statistics(self, space: si.LabelSpace, channels: int) -> si.ClassDistributions:
        return si.ClassDistributions(space.num_classes, channels, ignore_index=space.ignore_index)

    def contrast(self, statistics: si.ClassDistributions) -> nn.Module:
        settings = self.settings
        return si.DistributionContrastLoss(
            statistics, settings.temperature, ratio=settings.ratio, regularizer_weight=settings.regularizer
        )


class PrototypeContrastConfig(ContrastConfig):
    """CONFETI's temperature (ProCA: 50), and anchors of which a new image weighs 1 / (``max_count`` + 1).

    ``labels="sinkhorn"``: those of the target by optimal transport (CPSL), in place of the teacher's.
    """

    temperature: Rate = 0.1
    labels: Literal["teacher", "sinkhorn"] = "teacher"
    min_pixels: Count = 10
    max_count: Count = 99


class PrototypeContrast(ClassContrast):
    """Contrast with the anchors of all classes (ProCA, CONFETI), of target pixels with labels by transport (CPSL).

    Each image has a transport plan of its own, so that it does not matter what a step is cut into. Its classes have the
    fractions that they have among the teacher's labels of the image; those without an anchor have none. A label is the
    class of the largest part of the plan. CPSL's plans are soft, of some pixels of an image and a queue of earlier
    ones, with the fractions of the whole data set.
    """

    group, config, rank = "prototype_contrast", PrototypeContrastConfig, 86
    step_rank = 34
    parts = (Part("pcon", "prototype contrast", "contrast with class prototypes (ProCA, CONFETI)"),)
    presets = {
        "small": PrototypeContrastConfig(start_step=200, projection_dim=64, lr=1e-3, min_pixels=4),
        "smoke": PrototypeContrastConfig(start_step=0, projection_dim=8, lr=1e-3, min_pixels=1),
    }
    losses = {
        "prototype_contrast_source": "Prototype contrast: source",
        "prototype_contrast_target": "Prototype contrast: target",
    }
    used: si.CategoryAnchors
    sinkhorn = si.SinkhornLabels(sync="off")

    def statistics(self, space: si.LabelSpace, channels: int) -> si.CategoryAnchors:
        settings = self.settings
        return si.CategoryAnchors(
            space.num_classes,
            channels,
            min_pixels=settings.min_pixels,
            max_count=settings.max_count,
            ignore_index=space.ignore_index,
        )

    def contrast(self, statistics: si.CategoryAnchors) -> nn.Module:
        return si.PrototypeContrastLoss(statistics, self.settings.temperature)

    def predicted(self, context: StepContext, features: Tensor) -> Tensor:
        labels = super().predicted(context, features)
        if self.settings.labels == "teacher":
            return labels
        return torch.stack([self._transported(*each) for each in zip(features.detach(), labels, strict=True)])

    @torch.no_grad()
    def _transported(self, features: Tensor, labels: Tensor) -> Tensor:
        """Labels (h, w) of features (D, h, w) by transport, in the fractions of ``labels``; ignored without any."""
        classes = torch.arange(len(self.used.filled), device=labels.device)
        counts = (labels.flatten() == classes[:, None]).sum(1) * self.used.filled
        known = counts.any()
        with torch.autocast(features.device.type, enabled=False):
            pixels, anchors = F.normalize(features.float(), dim=0), F.normalize(self.used.anchors)
            cosines = torch.einsum("kd,dhw->khw", anchors, pixels)[None]
            plan = self.sinkhorn(cosines, torch.where(known, counts, 1).float())[0]
        return torch.where(known & plan.any(0), plan.argmax(0), self.ignore_index)
