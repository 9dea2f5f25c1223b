"""The protocol of an adaptation method, and the registry that recipes, settings and reports read.

A method is one file of this package: its config, the words that switch it on in a recipe's name, its titles, its
defaults per preset, and its hooks in a training step. A class that subclasses :class:`Method` registers itself.

A step calls the hooks in this order: ``before`` anything is computed, ``on_labeled`` after the labeled images went
through the network, ``on_target`` after the target images did, ``on_own_network`` once the segmentation network has its
gradients (discriminators), and ``after`` all optimizers have stepped.

A step may be cut into parts, on this process and across ranks. A loss is a mean, so each part counts by its share of
what the mean is taken over: images, unless the method names something else and counts it (``counts``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import stuffinstance as si

from ..config import Config
from ..models import NetworkOutput, SegmentationNetwork

if TYPE_CHECKING:
    from typing import Self

    from ..data.loader import LabeledSamples
    from ..recipes import Recipe
    from .class_pixels import ClassPixels

IMAGES = "images"
Kind = Literal["training", "stage", "labeling", "fusion"]


class MethodConfig(Config):
    """The settings of a method, a group of their own in ``--set group.setting=value``."""

    def in_recipe(self, *, round: int, relabeled: bool) -> Self:
        """The settings as a recipe uses them: in a later ``round`` of the method, or beside pseudo-labels."""
        return self

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError where the rest of the recipe cannot work with these settings."""

    def uses_target(self) -> bool:
        """Whether a step needs target images for it."""
        return True


@dataclass(frozen=True)
class Part:
    """A word of recipe names that switches a method on.

    Attributes:
        name: The word.
        title: In tables and figures.
        meaning: One line for people.
        changes: Settings of the method that the word fixes.
        model_options: Options that the segmentation network needs for it.
        kind: ``"training"`` takes effect in a step; a ``"stage"`` starts from another run's weights; ``"labeling"``
            trains again with labels that other runs gave the target; ``"fusion"`` trains nothing.
        rounds: Whether it can be repeated, as in ``cbst2``.
        mirror: The word that does the same with source and target exchanged.
        two_models: Whether it needs a recipe and its mirror.
    """

    name: str
    title: str
    meaning: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "training"
    rounds: bool = False
    mirror: str | None = None
    two_models: bool = False


class Loss(NamedTuple):
    """One number to minimize and its weight; it is logged without the weight.

    ``value`` is the mean over ``per`` of a part: its images, or what the method counts under that name.
    """

    name: str
    value: Tensor
    weight: float = 1.0
    per: str = IMAGES


@dataclass
class Domain:
    """Images of one domain and the network's output for them."""

    images: Tensor  # (B, 3, H, W) float in [0, 1]
    labels: Tensor  # (B, H, W) int64; of the target these are pseudo-labels, 255 everywhere without
    plain: Tensor | None = None  # the images before their colors and sharpness were changed; None if they were not
    output: NetworkOutput | None = None
    _upsampled: dict[float, Tensor] = field(default_factory=dict)

    def release(self) -> None:
        """After the backward pass: keep the output without its graph, and nothing of image size."""
        self.output = self.seen.detached()
        self._upsampled.clear()

    @property
    def seen(self) -> NetworkOutput:
        """The network's output; an error before the forward pass."""
        if self.output is None:
            raise RuntimeError("the images of this domain have not been through the network yet")
        return self.output

    def logits(self, scale: float = 1.0) -> Tensor:
        """Logits (B, K, H, W) in float32 at ``scale`` times the image's size, upsampled once for all methods."""
        if scale not in self._upsampled:
            self._upsampled[scale] = self.at_scale(self.seen.logits, scale)
        return self._upsampled[scale]

    def auxiliary_logits(self, scale: float = 1.0) -> Tensor:
        """The same of the auxiliary head."""
        if self.seen.auxiliary is None:
            raise RuntimeError("this network has no auxiliary head, but a method of the recipe needs one")
        return self.at_scale(self.seen.auxiliary, scale)

    def at_scale(self, logits: Tensor, scale: float = 1.0) -> Tensor:
        """``logits`` in float32 at ``scale`` times the image's size."""
        size = [max(1, round(scale * side)) for side in self.images.shape[-2:]]
        return F.interpolate(logits.float(), size, mode="bilinear", align_corners=True)


@dataclass
class StepContext:
    """What one part of a step has computed so far.

    ``shares`` are the part's shares of the whole step, empty where it is the whole step. ``found`` holds what one
    method computes for others or for its own later hooks, by a key of its choice (the teacher's labels).
    """

    step: int
    labeled: Domain
    target: Domain | None = None
    shares: Mapping[str, Tensor | float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def unlabeled(self) -> Domain:
        """The target images; an error in a recipe that draws none."""
        if self.target is None:
            raise RuntimeError("this recipe draws no target images, but a method needs them")
        return self.target


class Setup(NamedTuple):
    """What a method is built from besides its config; the network is as training starts with it.

    ``class_pixels`` is shared by all methods of a recipe, and counted where one of them does in ``prepare``.
    """

    recipe: Recipe
    network: SegmentationNetwork
    device: torch.device
    class_pixels: ClassPixels

    @property
    def space(self) -> si.LabelSpace:
        """The classes."""
        return self.recipe.label_space


_REGISTERED: dict[str, type[Method]] = {}


def registered_methods() -> dict[str, type[Method]]:
    """All methods by their group of settings, in the order of their rank."""
    return dict(sorted(_REGISTERED.items(), key=lambda item: item[1].rank))


class Method:
    """One adaptation method. A subclass overrides the hooks that it needs; naming its ``group`` registers it.

    Attributes:
        group: Its settings' name in ``--set group.setting=value``.
        config: The type of its settings.
        parts: The words that switch it on; none for a method that only others require.
        rank: Its place among the methods: in recipe names and in tables.
        step_rank: Its place in a step, where the order decides what is summed first.
        presets: Its settings in a preset where they are not the defaults. ``tiny`` and ``smoke`` fall back to
            ``small``.
        losses: Title of each loss that it logs.
        requires: Groups of other methods that it needs, whatever its settings.
        needs_forward: Whether it needs the network's output for the target images.
        labeled_temperature: What the segmentation loss divides the labeled logits by.
        cost: Time that it adds to a step, relative to a step on labeled images alone; for the estimate of time left.
    """

    group: ClassVar[str]
    config: ClassVar[type[MethodConfig]]
    parts: ClassVar[Sequence[Part]] = ()
    rank: ClassVar[int] = 1000
    step_rank: ClassVar[int] = 1000
    presets: ClassVar[Mapping[str, MethodConfig]] = {}
    losses: ClassVar[Mapping[str, str]] = {}
    requires: ClassVar[Sequence[str]] = ()
    needs_forward: ClassVar[bool] = False
    cost: ClassVar[float] = 0.0
    labeled_temperature: float = 1.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "group" in cls.__dict__:
            _REGISTERED[cls.group] = cls

    def __init__(self, config: Any, setup: Setup) -> None:
        """Take what it needs; ``config`` is of the type :attr:`config`."""

    @classmethod
    def default_config(cls, preset: str) -> MethodConfig:
        """The settings in a preset."""
        for name in (preset, *(("small",) if preset in ("tiny", "smoke") else ())):
            if name in cls.presets:
                return cls.presets[name]
        return cls.config()

    @classmethod
    def required(cls, config: Any) -> Sequence[str]:
        """Groups of other methods that it needs with these settings."""
        return cls.requires

    def prepare(self, labeled: LabeledSamples) -> None:
        """Once, before the first step of a run: read the labeled images."""

    def sampler(self) -> si.RareClassSampler | None:
        """What draws the labeled images, with the class each is drawn for; None for shuffled epochs."""
        return None

    def before(self, context: StepContext) -> None:
        """Before anything is computed."""

    def counts(self, context: StepContext) -> dict[str, Tensor]:
        """How many of what its losses are means over a part holds, besides images; called after ``before``."""
        return {}

    def on_labeled(self, context: StepContext) -> list[Loss]:
        """Losses to add before the labeled backward pass; banks are filled here."""
        return []

    def on_target(self, context: StepContext) -> list[Loss]:
        """Losses to add before the target backward pass."""
        return []

    def on_own_network(self, context: StepContext) -> list[Loss]:
        """Losses of the method's own network, on outputs that carry no gradient back."""
        return []

    def after(self) -> None:
        """Once all optimizers have stepped."""

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps, by its name there."""
        return {}

    def optimizers(self) -> dict[str, Optimizer]:
        """Optimizers of the method's own network, by their name in a checkpoint."""
        return {}


def discriminator_optimizer(discriminator: nn.Module, lr: float, betas: tuple[float, float]) -> Optimizer:
    """The optimizer of a method's own network; its rate follows the same schedule."""
    return remember_start(torch.optim.Adam(discriminator.parameters(), lr=lr, betas=betas))


def remember_start(optimizer: Optimizer) -> Optimizer:
    """Note each group's starting rate, which the schedule scales."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
