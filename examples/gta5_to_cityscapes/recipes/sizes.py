"""The sizes a recipe comes in: the authors', one for two CPU cores, and one that only proves it runs."""

from __future__ import annotations

from typing import Literal

from .settings import (
    AnchorConfig,
    AugmentationConfig,
    ClassMixConfig,
    DataConfig,
    EntropyConfig,
    EvaluationConfig,
    FineGrainedConfig,
    MaskedConsistencyConfig,
    MatchingConfig,
    MaxSquareConfig,
    ModelConfig,
    OptimizerConfig,
    OutputAdversarialConfig,
    PseudoLabelConfig,
    RuntimeConfig,
    ScheduleConfig,
    Settings,
    StyleTransferConfig,
    TeacherConfig,
    Weight,
)


class Shared(Settings):
    """What a recipe takes from its size whichever parts it has."""

    network: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    deterministic: bool = False
    runtime: RuntimeConfig = RuntimeConfig()


class Size(Shared):
    """All settings a recipe may draw on; which of the parts it takes is the recipe's name."""

    restyle: StyleTransferConfig = StyleTransferConfig()
    adversarial: OutputAdversarialConfig = OutputAdversarialConfig()
    matching: MatchingConfig = MatchingConfig()
    matching_weight_in_second_step: Weight = 0.001
    pseudo_labels: PseudoLabelConfig = PseudoLabelConfig()
    restyle_target: StyleTransferConfig = StyleTransferConfig()
    entropy: EntropyConfig = EntropyConfig()
    max_square: MaxSquareConfig = MaxSquareConfig()
    fine_grained: FineGrainedConfig = FineGrainedConfig()
    anchors: AnchorConfig = AnchorConfig()
    teacher: TeacherConfig = TeacherConfig()
    class_mixing: ClassMixConfig = ClassMixConfig()
    masked_consistency: MaskedConsistencyConfig = MaskedConsistencyConfig()


FULL = Size()

FULL_VGG16 = Size(network=ModelConfig(name="deeplabv2_vgg16"))

# A network from random weights on a few hundred small images needs what the authors' ImageNet start
# gave them for free: a larger learning rate with warm-up, strong augmentation of appearance and scale,
# and weights of the adaptation terms to go with both. Batch normalization learns faster than group
# normalization in so few steps; as in the reference implementation the target's batches then pass through it too
# wherever a recipe has a target, which is an adaptation in itself and part of what `aa` gains here.
# docs/camvid.md says on which images these settings were chosen.
# What a published value measures in units of the network is set by what the source-only network of this size shows on
# unlabeled target images: anchors 3.5 long, half of the pixels nearer to one than to the next by 0.5, a twentieth of
# them with a confidence above 0.968. On a feature map of 15x30 few classes have 10 pixels.
SMALL = Size(
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
    restyle=StyleTransferConfig(method="lab", probability=0.5),
    adversarial=OutputAdversarialConfig(weight=0.003, width=16, scale=0.5, start_step=200),
    matching=MatchingConfig(weight=0.01, capacity=20),
    fine_grained=FineGrainedConfig(weight=0.003, width=64, start_step=200),
    anchors=AnchorConfig(margin=0.5, min_pixels=4),
    teacher=TeacherConfig(alpha=0.99, confidence=0.8),
    masked_consistency=MaskedConsistencyConfig(block=16),
    evaluation=EvaluationConfig(at="images", batch=8),
    deterministic=True,
    runtime=RuntimeConfig(num_workers=0, cache=True),
)

SMOKE = SMALL.model_copy(
    update={
        "data": DataConfig(source_size=(48, 96), target_size=(48, 96), batch=2),
        "augmentation": SMALL.augmentation.model_copy(update={"crop": None}),
        "schedule": ScheduleConfig(max_steps=12, decay_steps=12, warmup=2, log_every=2, evaluate_every=6, save_every=6),
        "adversarial": OutputAdversarialConfig(weight=0.003, width=4, start_step=0),
        "matching": MatchingConfig(weight=0.01, capacity=4),
        "fine_grained": FineGrainedConfig(weight=0.003, width=8),
        "evaluation": EvaluationConfig(at="images", batch=4, previews=2),
    }
)

SIZES: dict[str, Size] = {"full": FULL, "full-vgg16": FULL_VGG16, "small": SMALL, "smoke": SMOKE}
