"""Presets: the settings that all recipes share, at the authors' size, for two CPU cores, and for tests.

What a preset sets of one method is in that method's file.
"""

from __future__ import annotations

from typing import Literal

from ..config import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RuntimeConfig,
    ScheduleConfig,
)
from ..models import IMAGENET


class Shared(Config):
    """The settings of a recipe whichever methods it has."""

    network: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    deterministic: bool = False
    runtime: RuntimeConfig = RuntimeConfig()


FULL = Shared()

FULL_VGG16 = Shared(network=ModelConfig(name="deeplabv2_vgg16"))

# A vision transformer of today, its sizes and rates those of DAFormer (https://arxiv.org/abs/2111.14887), but crops
# that patches of 14 pixels divide. The start weights are a folder: network.weights.
FULL_VIT = Shared(
    network=ModelConfig(name="vit", options={"layer_decay": 0.9}),
    data=DataConfig(batch=2),
    augmentation=AugmentationConfig(crop=(504, 504), flip=0.5, target="geometry"),
    optimizer=OptimizerConfig(kind="adamw", lr=6e-5, weight_decay=0.01, head_lr_mult=10.0),
    schedule=ScheduleConfig(max_steps=40_000, decay_steps=40_000, power=1.0, warmup=1500),
    precision="bfloat16",
)

# A network from random weights on a few hundred small images needs what the authors' ImageNet start
# gave them for free: a larger learning rate with warm-up, strong augmentation of appearance and scale,
# and weights of the adaptation methods to go with both. Batch normalization learns faster than group
# normalization in so few steps; as in the reference implementation the target's batches then pass through it too
# wherever a recipe has a target, which is an adaptation in itself and part of what `aa` gains here.
# docs/camvid.md says on which images these settings were chosen.
# What a published value measures in units of the network is set by what the source-only network of this preset shows on
# unlabeled target images: anchors 3.5 long, half of the pixels nearer to one than to the next by 0.5, a twentieth of
# them with a confidence above 0.968. On a feature map of 15x30 few classes have 10 pixels.
TINY = Shared(
    network=ModelConfig(name="small", options={"norm": "batch"}),
    data=DataConfig(source_size=(120, 240), target_size=(120, 240), batch=4),
    augmentation=AugmentationConfig(
        crop=(96, 192),
        scale=(0.4, 1.0),
        ratio_jitter=1.2,
        flip=0.5,
        color_jitter=0.5,
        grayscale=0.1,
        blur=0.4,
        noise=0.4,
        target="geometry",
    ),
    optimizer=OptimizerConfig(kind="adamw", lr=3e-3, weight_decay=0.01, head_lr_mult=1.0),
    schedule=ScheduleConfig(
        max_steps=1300, decay_steps=1300, warmup=50, log_every=10, evaluate_every=260, save_every=260
    ),
    evaluation=EvaluationConfig(at="images", batch=8),
    deterministic=True,
    runtime=RuntimeConfig(num_workers=0, cache=True),
)

# An ImageNet start on two cores. Few steps are enough, at a tenth of the rate of random weights. Early stages and the
# batch statistics of the start weights are kept: passes take about three quarters of the time, and the network scored
# no worse on a drive that was not trained on (docs/evidence.md).
SMALL = TINY.model_copy(
    update={
        "network": ModelConfig(
            name="efficientnet_lite", weights=IMAGENET, options={"freeze_stages": 3, "batch_norm": "frozen"}
        ),
        "optimizer": TINY.optimizer.model_copy(update={"lr": 3e-4, "head_lr_mult": 10.0}),
        "schedule": ScheduleConfig(
            max_steps=400, decay_steps=400, warmup=50, log_every=10, evaluate_every=100, save_every=100
        ),
        "runtime": TINY.runtime.model_copy(update={"channels_last": True}),
    }
)

SMOKE = TINY.model_copy(
    update={
        "data": DataConfig(source_size=(48, 96), target_size=(48, 96), batch=2),
        "augmentation": TINY.augmentation.model_copy(update={"crop": None}),
        "schedule": ScheduleConfig(max_steps=12, decay_steps=12, warmup=2, log_every=2, evaluate_every=6, save_every=6),
        "evaluation": EvaluationConfig(at="images", batch=4, previews=2),
    }
)

PRESETS: dict[str, Shared] = {
    "full": FULL,
    "full-vgg16": FULL_VGG16,
    "full-vit": FULL_VIT,
    "small": SMALL,
    "tiny": TINY,
    "smoke": SMOKE,
}
