"""The vocabulary of a recipe: small frozen models, one for each thing a run decides.

Every default here is the value that the reference implementation of SIM ran with; the sizes in
``sizes.py`` say where they depart from it.  A model refuses fields it does not know, so a mistyped
setting is an error and never a silent default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..data import Layout
from ..data.image_files import MAX_PIXELS
from ..models import NetworkName, network_options

RESTYLING_METHODS = ("lab", "fourier", "lab+fourier")  # anything else is a folder
LARGEST = 2**31 - 1  # what every kernel takes as a count
LARGEST_FACTOR = 1e6  # beyond it float32 overflows within a step or two
Side = Annotated[int, Field(ge=1, le=LARGEST)]  # of an image, in pixels
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Step = Annotated[int, Field(ge=0, le=LARGEST)]
Weight = Annotated[float, Field(ge=0.0, le=LARGEST_FACTOR)]
Rate = Annotated[float, Field(gt=0.0, le=LARGEST_FACTOR)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Part = Annotated[float, Field(gt=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]  # what an exponential mean keeps in one step
SpaceName = Literal["cityscapes", "synthia16", "synthia13"]


class Settings(BaseModel):
    """A group of settings that cannot change once made.

    Their bounds are those of what they are given to, so that a wrong one is refused before anything is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LayoutConfig(Settings):
    """How the two folders are laid out."""

    source: Layout = "gta5"
    target: Layout = "cityscapes"


class ModelConfig(Settings):
    """Which network, and where it starts from.

    ``sync_bn``: batch normalization takes its means and variances over the images of all processes.
    """

    name: NetworkName = "deeplabv2_resnet101"
    weights: str | None = None
    sync_bn: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_are_those_of_the_network(self) -> ModelConfig:
        known = network_options(self.name)
        if unknown := sorted(set(self.options) - set(known)):
            raise ValueError(
                f"options of {self.name} must be among {', '.join(known)}, got {', '.join(unknown)}; leave them out"
            )
        return self


class DataConfig(Settings):
    """Sizes are (height, width), as tensors have them; ``batch`` counts the images of a step, of each domain."""

    source_size: tuple[Side, Side] = (720, 1280)
    target_size: tuple[Side, Side] = (512, 1024)
    batch: int = Field(default=1, ge=1, le=2**16)

    @field_validator("source_size", "target_size")
    @classmethod
    def _size_can_be_read(cls, size: tuple[int, int]) -> tuple[int, int]:
        if size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"must be at most {MAX_PIXELS} pixels, as much as is read of a file, got {list(size)}")
        return size


class AugmentationConfig(Settings):
    """Random changes of the training images; the same for every recipe so that an ablation is fair.

    The defaults change nothing, which is what the authors did.
    """

    crop: tuple[Side, Side] | None = None
    scale: tuple[Part, Part] = (1.0, 1.0)
    ratio_jitter: float = Field(default=1.0, ge=1.0, le=100.0)
    flip: Share = 0.0
    color_jitter: Share = 0.0
    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.4
    hue: float = Field(default=0.08, ge=0.0, le=0.5)
    grayscale: Share = 0.0
    blur: Share = 0.0
    blur_sigma: tuple[Rate, Rate] = (0.1, 1.5)
    noise: Share = 0.0
    noise_deviation: Weight = 0.04
    target: Literal["none", "geometry", "all"] = "all"

    @field_validator("scale", "blur_sigma")
    @classmethod
    def _range_is_in_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise ValueError(f"must be (lowest, highest), got {list(bounds)}")
        return bounds


class OptimizerConfig(Settings):
    """The network's optimizer."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Rate = 2.5e-4
    momentum: Weight = 0.9
    nesterov: bool = False
    weight_decay: Weight = 5e-4
    head_lr_mult: Rate = 10.0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerConfig:
        if self.kind == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; set momentum, or leave nesterov out")
        return self


class ScheduleConfig(Settings):
    """Learning rates fall as (1 - step / decay_steps) ** power; training stops at ``max_steps``."""

    steps: Count = 200_000
    horizon: Count = 250_000
    power: Weight = 0.9
    warmup: Step = 0
    log_every: Count = 50
    evaluate_every: Count = 5_000
    save_every: Count = 5_000


class StyleTransferConfig(Settings):
    """Images of one domain in the other's appearance: IT of the source, or of the target (symmetric adaptation).

    ``method`` is ``"lab"``, ``"fourier"``, ``"lab+fourier"`` (each batch towards the other domain's batch of the same
    step, nothing to train) or a folder that holds the images already restyled. Either way each image of a step is
    the restyled one with ``probability``, else the original; a target from a folder is always the restyled one.
    """

    method: str = "lab"
    window: float = Field(default=0.01, ge=0.0, le=0.5)
    probability: Share = 1.0

    @property
    def in_step(self) -> bool:
        """Whether a step works it out, which takes images of the other domain; a folder of restyled ones does not."""
        return self.method in RESTYLING_METHODS


class OutputAdversarialConfig(Settings):
    """AA: output-space adversarial alignment, Eq. 2 and 3.

    The discriminator sees the logits at ``scale`` times the image's size. With two ``levels`` the network's auxiliary
    head is trained and aligned too, with weights of its own (AdaptSegNet).
    """

    weight: Weight = 0.001
    form: Literal["bce", "least_squares"] = "bce"
    of: Literal["probabilities", "entropy"] = "probabilities"
    levels: Literal[1, 2] = 1
    auxiliary_weight: Weight = 0.0002
    auxiliary_segmentation: Weight = 0.1
    width: Count = 64
    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    scale: float = Field(default=1.0, gt=0.0, le=1.0)
    begin: Step = 0


class MatchingConfig(Settings):
    """SIM: stuff and instance matching, Eq. 4 to 8 and 11."""

    weight: Weight = 0.01
    preset: Literal["code", "paper"] = "code"
    capacity: Count = 50
    max_instances: Count = 10
    agreement: bool = True
    begin: Step = 0


class PseudoLabelConfig(Settings):
    """SSL: Eq. 9 and 10, on the labels that the step-1 network gives the target training images.

    ``rule`` says which labels are kept: above class medians (SIM, ``quantile`` and ``cap``), all of them (FADA),
    the most confident ``portion`` of each class (CBST), above adaptive thresholds (IAST, ``alpha``, ``beta``,
    ``gamma``), or those that two models agree on (symmetric adaptation, ``quantile``, ``cap`` and ``consistency``).
    Each round of CBST adds ``portion_step`` to the portion. ``divergence`` is the weight of CRST's MRKLD term.
    """

    weight: Weight = 1.0
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


class EntropyConfig(Settings):
    """MinEnt (ADVENT): the mean normalized entropy of the target's output."""

    weight: Weight = 0.001


class MaxSquareConfig(Settings):
    """Maximum squares, weighted by class and image."""

    weight: Weight = 0.1
    image_wise: bool = True


class FineGrainedConfig(Settings):
    """FADA: a discriminator of domains and classes on the features; the source is trained at ``temperature`` too."""

    weight: Weight = 0.001
    width: int = Field(default=256, ge=2, le=LARGEST, multiple_of=2)
    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    temperature: Rate = 1.8
    clip: float = Field(default=0.9, gt=0.0, le=1.0)
    encoding: Literal["soft", "hard"] = "soft"
    begin: Step = 0


class AnchorConfig(Settings):
    """CAG-UDA: class anchors of the source, and target labels by nearness to them, as the stage before sees both."""

    margin: Weight = 2.5
    min_pixels: Count = 10
    max_count: Count = 3000
    confidence: Share = 0.95
    label_weight: Weight = 0.5
    distance_weight: Weight = 0.7
    form: Literal["code", "paper"] = "code"


class TeacherConfig(Settings):
    """The averaged network that labels target images as training goes on (for ``mix`` and ``mask``)."""

    alpha: Decay = 0.999
    confidence: Share = 0.968


class ClassMixConfig(Settings):
    """Half of a source image's classes pasted into a target image (ClassMix, DACS)."""

    weight: Weight = 1.0


class MaskedConsistencyConfig(Settings):
    """What the teacher sees in the whole image is asked of one with blocks taken out (MIC)."""

    weight: Weight = 1.0
    block: Count = 64
    ratio: float = Field(default=0.7, ge=0.0, lt=1.0)


class EvaluationConfig(Settings):
    """``at="labels"`` scores at the labels' own size; ``"images"`` at the size the network sees.

    With ``flip`` or several ``scales`` the mean of the probabilities of all views of an image is scored: it is shown
    at its size times each scale, and with ``flip`` mirrored as well.
    """

    at: Literal["labels", "images"] = "labels"
    flip: bool = False
    scales: tuple[Rate, ...] = Field(default=(1.0,), min_length=1)
    batch: int = Field(default=1, ge=1, le=2**16)
    previews: int = Field(default=6, ge=0, le=6)


class RuntimeConfig(Settings):
    """What decides how a run is carried out but not what it computes; never compared between runs."""

    num_workers: int = Field(default=4, ge=0, le=1024)
    accumulate_grad_batches: Count = 1  # parts that each process goes through a step's images in, to need less memory
    cache: bool = False
    tensorboard: bool = True
    save_total_limit: Count = 2  # the newest, and those before it for when it is damaged
