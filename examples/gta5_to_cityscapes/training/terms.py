"""What a step can be made of: each term brings its losses, and whatever it must train or remember.

A step has three moments and a term speaks at those it needs: after the labelled pictures went through
the network (``on_labelled``), after the target pictures did (``on_target``), and, for a term with a
network of its own, after the segmentation network has its gradients (``on_own_network``).  A new
method is a new class here and one line in :func:`compose_terms`.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import stuffinstance as si

from ..networks import NetworkOutput, SegmentationNetwork
from ..recipes import Recipe
from ..recipes.settings import Adversarial, Matching
from .optimisers import remember_start


class Loss(NamedTuple):
    """One number to minimise, and how much it counts; it is logged without its weight."""

    name: str
    value: Tensor
    weight: float = 1.0


@dataclass
class Domain:
    """Pictures of one domain and what the network made of them."""

    images: Tensor  # (B, 3, H, W) float in [0, 1]
    labels: Tensor  # (B, H, W) int64; for the target these are pseudo-labels, 255 throughout without
    output: NetworkOutput | None = None
    _upsampled: dict[float, Tensor] = field(default_factory=dict)

    @property
    def seen(self) -> NetworkOutput:
        """The network's output; asking before the forward pass is a programming error."""
        if self.output is None:
            raise RuntimeError("this domain's pictures have not been through the network yet")
        return self.output

    def logits(self, scale: float = 1.0) -> Tensor:
        """Logits (B, K, H, W) in float32 at ``scale`` times the picture's size, upsampled once for all terms."""
        if scale not in self._upsampled:
            size = [max(1, round(scale * side)) for side in self.images.shape[-2:]]
            self._upsampled[scale] = F.interpolate(self.seen.logits.float(), size, mode="bilinear", align_corners=True)
        return self._upsampled[scale]


@dataclass
class Passes:
    """What a step has computed so far."""

    step: int
    labelled: Domain
    target: Domain | None = None

    @property
    def unlabelled(self) -> Domain:
        """The target pictures of a step that has some."""
        if self.target is None:
            raise RuntimeError("this recipe draws no target pictures, but one of its terms needs them")
        return self.target


class Term(ABC):  # noqa: B024  a term overrides only the moments it needs
    """One ingredient of a step."""

    needs_target = False

    def on_labelled(self, passes: Passes) -> list[Loss]:
        """Losses to add before the labelled backward pass; banks are filled here."""
        return []

    def on_target(self, passes: Passes) -> list[Loss]:
        """Losses to add before the target backward pass."""
        return []

    def on_own_network(self, passes: Passes) -> list[Loss]:
        """Losses of the term's own network, on outputs that carry no gradient back."""
        return []

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps, by its name there."""
        return {}

    def optimisers(self) -> dict[str, Optimizer]:
        """Optimisers of the term's own network, by their name in a checkpoint."""
        return {}


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Mean over all labelled pixels of the batch, as torch's own; exactly 0, still on the graph, where none is.

    The matching losses are means over images instead: there each picture counts alike, here each labelled pixel.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)


class LabelledSegmentation(Term):
    """Eq. 1: cross-entropy on the labelled pictures."""

    def __init__(self, ignore_index: int) -> None:
        self.ignore_index = ignore_index

    def on_labelled(self, passes: Passes) -> list[Loss]:
        domain = passes.labelled
        return [Loss("segmentation", cross_entropy(domain.logits(), domain.labels, self.ignore_index))]


class PseudoLabelSegmentation(Term):
    """Eq. 10: the same on the target, with the labels that the first step's network gave."""

    needs_target = True

    def __init__(self, weight: float, ignore_index: int) -> None:
        self.weight = weight
        self.ignore_index = ignore_index

    def on_target(self, passes: Passes) -> list[Loss]:
        domain = passes.unlabelled
        loss = cross_entropy(domain.logits(), domain.labels, self.ignore_index)
        return [Loss("pseudo", loss, self.weight)]


class OutputAlignment(Term):
    """Eq. 2 and 3: the target's output should look like the source's to a discriminator."""

    needs_target = True

    def __init__(self, settings: Adversarial, num_classes: int, device: torch.device) -> None:
        self.settings = settings
        self.discriminator = si.OutputDiscriminator(num_classes, width=settings.width).to(device)
        self.loss = si.OutputAdversarialLoss(self.discriminator)
        self.optimiser = remember_start(
            torch.optim.Adam(self.discriminator.parameters(), lr=settings.lr, betas=settings.betas)
        )

    def on_target(self, passes: Passes) -> list[Loss]:
        if passes.step < self.settings.begin:
            return []
        self.discriminator.requires_grad_(False)  # fooling it must not train it
        value = self.loss.generator(passes.unlabelled.logits(self.settings.scale))
        return [Loss("adversarial", value, self.settings.weight)]

    def on_own_network(self, passes: Passes) -> list[Loss]:
        # It learns from the first step on, so that it has something to say when its weight begins.
        self.discriminator.requires_grad_(True)
        source = passes.labelled.logits(self.settings.scale)
        target = passes.unlabelled.logits(self.settings.scale)
        return [Loss("discriminator", self.loss.discriminator(source.detach(), target.detach()))]

    def modules(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"discriminator": self.optimiser}


class StuffInstanceAlignment(Term):
    """Eq. 4 to 8, and Eq. 11 where the target has pseudo-labels."""

    needs_target = True

    def __init__(
        self,
        settings: Matching,
        space: si.LabelSpace,
        network: SegmentationNetwork,
        device: torch.device,
        *,
        pseudo_labels: bool,
    ) -> None:
        self.settings = settings
        self.pseudo_labels = pseudo_labels
        self.sim = si.StuffInstanceMatching(
            space,
            feature_dim=network.feature_dim,
            preset=settings.preset,
            capacity=settings.capacity,
            max_instances=settings.max_instances,
            classifier=network.classify if settings.agreement else None,
        ).to(device)

    def on_labelled(self, passes: Passes) -> list[Loss]:
        domain = passes.labelled
        self.sim.update(domain.seen.features.detach(), domain.labels, domain.seen.logits.detach())
        return []

    def on_target(self, passes: Passes) -> list[Loss]:
        if passes.step < self.settings.begin:
            return []
        domain = passes.unlabelled
        losses = self.sim(
            domain.seen.features,
            domain.seen.logits,
            pseudo_labels=domain.labels if self.pseudo_labels else None,
        )
        weight = self.settings.weight
        return [Loss("stuff", losses.stuff, weight), Loss("instance", losses.instance, weight)]

    def modules(self) -> dict[str, nn.Module]:
        return {"sim": self.sim}


def compose_terms(recipe: Recipe, network: SegmentationNetwork, device: torch.device) -> list[Term]:
    """The terms that a recipe asks for, in the order in which they speak."""
    space = recipe.label_space
    terms: list[Term] = [LabelledSegmentation(space.ignore_index)]
    if recipe.pseudo_labels:
        terms.append(PseudoLabelSegmentation(recipe.pseudo_labels.weight, space.ignore_index))
    if recipe.matching:
        pseudo = recipe.pseudo_labels is not None
        terms.append(StuffInstanceAlignment(recipe.matching, space, network, device, pseudo_labels=pseudo))
    if recipe.adversarial:
        terms.append(OutputAlignment(recipe.adversarial, space.num_classes, device))
    return terms
