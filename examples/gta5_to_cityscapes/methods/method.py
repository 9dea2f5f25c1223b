"""What a step can be made of: each term brings its losses, and whatever it must train or remember.

A step has moments and a term speaks at those it needs: before anything is computed (``before``), after the labeled
images went through the network (``on_labeled``), after the target images did (``on_target``), for a term with a
network of its own, after the segmentation network has its gradients (``on_own_network``), and when all optimizers
have stepped (``after``). A new method is a new class in this room and one line in ``composition.py``.

A step may be cut into parts, on this process and among others. A loss is a mean, so each part counts by its share of
what the mean is taken over: images, unless the term says something else and counts it (``counts``).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ..data.loader import Samples
from ..models import NetworkOutput
from ..training.step_clock import UNTIMED, StepClock

PICTURES = "images"


class Loss(NamedTuple):
    """One number to minimize, and how much it counts; it is logged without its weight.

    ``value`` is the mean over a part's ``per``: its images, or something that the term counts under that name.
    """

    name: str
    value: Tensor
    weight: float = 1.0
    per: str = PICTURES


@dataclass
class Domain:
    """Images of one domain and what the network made of them."""

    images: Tensor  # (B, 3, H, W) float in [0, 1]
    labels: Tensor  # (B, H, W) int64; for the target these are pseudo-labels, 255 throughout without
    output: NetworkOutput | None = None
    _upsampled: dict[float, Tensor] = field(default_factory=dict)

    def let_go(self) -> None:
        """After the backward pass: keep the output without its graph, and nothing of image size."""
        self.output = self.seen.detached()
        self._upsampled.clear()

    @property
    def seen(self) -> NetworkOutput:
        """The network's output; asking before the forward pass is a programming error."""
        if self.output is None:
            raise RuntimeError("this domain's images have not been through the network yet")
        return self.output

    def logits(self, scale: float = 1.0) -> Tensor:
        """Logits (B, K, H, W) in float32 at ``scale`` times the image's size, upsampled once for all terms."""
        if scale not in self._upsampled:
            self._upsampled[scale] = self.at_scale(self.seen.logits, scale)
        return self._upsampled[scale]

    def auxiliary_logits(self, scale: float = 1.0) -> Tensor:
        """The same of the auxiliary head."""
        if self.seen.auxiliary is None:
            raise RuntimeError("this network has no auxiliary head, but one of the recipe's terms needs one")
        return self.at_scale(self.seen.auxiliary, scale)

    def at_scale(self, logits: Tensor, scale: float = 1.0) -> Tensor:
        """``logits`` in float32 at ``scale`` times the image's size."""
        size = [max(1, round(scale * side)) for side in self.images.shape[-2:]]
        return F.interpolate(logits.float(), size, mode="bilinear", align_corners=True)


@dataclass
class TeacherLabels:
    """What the averaged network makes of the target: labels (B, H, W), and how much each image counts (B,)."""

    labels: Tensor
    weights: Tensor


@dataclass
class AnchorLabels:
    """Target labels (B, h, w) of CAG-UDA: by the nearest anchor, and by the softmax."""

    nearest: Tensor
    confident: Tensor


@dataclass
class StepContext:
    """What one part of a step has computed so far; ``shares`` of the whole step, where it is not the whole step."""

    step: int
    labeled: Domain
    target: Domain | None = None
    teacher: TeacherLabels | None = None
    anchored: AnchorLabels | None = None
    shares: Mapping[str, Tensor | float] = field(default_factory=dict)
    clock: StepClock = UNTIMED  # for a term whose share of the step is told

    @property
    def unlabeled(self) -> Domain:
        """The target images of a step that has some."""
        if self.target is None:
            raise RuntimeError("this recipe draws no target images, but one of its terms needs them")
        return self.target

    @property
    def taught(self) -> TeacherLabels:
        """The teacher's labels of a step that has a teacher."""
        if self.teacher is None:
            raise RuntimeError("this recipe has no teacher, but one of its terms needs its labels")
        return self.teacher

    @property
    def anchor_labels(self) -> AnchorLabels:
        """The labels of a step that has anchors."""
        if self.anchored is None:
            raise RuntimeError("this recipe has no anchors, but one of its terms needs their labels")
        return self.anchored


class Method(ABC):  # noqa: B024  a term overrides only the moments it needs
    """One ingredient of a step."""

    needs_target = False  # target images, through the network

    def prepare(self, labeled: Samples) -> None:  # noqa: B027
        """Once, before the first step of a run: look at the labeled images."""

    def before(self, context: StepContext) -> None:  # noqa: B027
        """Before anything is computed."""

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        """What its losses are means over, other than images: how many of a part's, once ``before`` has spoken."""
        return {}

    def on_labeled(self, context: StepContext) -> list[Loss]:
        """Losses to add before the labeled backward pass; banks are filled here."""
        return []

    def on_target(self, context: StepContext) -> list[Loss]:
        """Losses to add before the target backward pass."""
        return []

    def on_own_network(self, context: StepContext) -> list[Loss]:
        """Losses of the term's own network, on outputs that carry no gradient back."""
        return []

    def after(self) -> None:  # noqa: B027
        """Once all optimizers have stepped."""

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps, by its name there."""
        return {}

    def optimizers(self) -> dict[str, Optimizer]:
        """Optimizers of the term's own network, by their name in a checkpoint."""
        return {}
