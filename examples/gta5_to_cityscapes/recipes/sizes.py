"""The sizes a recipe comes in: the authors', one for two CPU cores, and one that only proves it runs."""

from __future__ import annotations

from typing import Literal

from .settings import (
    Adversarial,
    Anchors,
    Augmentation,
    ClassMixing,
    Entropy,
    Evaluation,
    FineGrained,
    MaskedConsistency,
    Matching,
    MaxSquare,
    Network,
    Optimiser,
    Pictures,
    PseudoLabels,
    Restyling,
    Running,
    Schedule,
    Settings,
    Teacher,
    Weight,
)


class Shared(Settings):
    """What a recipe takes from its size whichever parts it has."""

    network: Network = Network()
    pictures: Pictures = Pictures()
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    deterministic: bool = False
    running: Running = Running()


class Size(Shared):
    """All settings a recipe may draw on; which of the parts it takes is the recipe's name."""

    restyle: Restyling = Restyling()
    adversarial: Adversarial = Adversarial()
    matching: Matching = Matching()
    matching_weight_in_second_step: Weight = 0.001
    pseudo_labels: PseudoLabels = PseudoLabels()
    restyle_target: Restyling = Restyling()
    entropy: Entropy = Entropy()
    max_square: MaxSquare = MaxSquare()
    fine_grained: FineGrained = FineGrained()
    anchors: Anchors = Anchors()
    teacher: Teacher = Teacher()
    class_mixing: ClassMixing = ClassMixing()
    masked_consistency: MaskedConsistency = MaskedConsistency()


FULL = Size()

FULL_VGG16 = Size(network=Network(name="deeplabv2_vgg16"))

# A network from random weights on a few hundred small pictures needs what the authors' ImageNet start
# gave them for free: a larger learning rate with warm-up, strong augmentation of appearance and scale,
# and weights of the adaptation terms to go with both. Batch normalisation learns faster than group
# normalisation in so few steps; as in the released code the target's batches then pass through it too
# wherever a recipe has a target, which is an adaptation in itself and part of what `aa` gains here.
# docs/camvid.md says on which pictures these settings were chosen.
# What a published value measures in units of the network is set by what the source-only network of this size shows on
# unlabelled target pictures: anchors 3.5 long, half of the pixels nearer to one than to the next by 0.5, a twentieth of
# them with a confidence above 0.968. On a feature map of 15x30 few classes have 10 pixels.
SMALL = Size(
    network=Network(name="small", options={"norm": "batch"}),
    pictures=Pictures(source_size=(120, 240), target_size=(120, 240), batch=4),
    augmentation=Augmentation(
        crop=(96, 192),
        area=(0.4, 1.0),
        stretch=1.2,
        flip=0.5,
        colour=0.5,
        grey=0.1,
        blur=0.4,
        noise=0.4,
        target="geometry",
    ),
    optimiser=Optimiser(kind="adamw", lr=3e-3, weight_decay=0.01, head_factor=1.0),
    schedule=Schedule(steps=1300, horizon=1300, warmup=50, log_every=10, evaluate_every=260, save_every=260),
    restyle=Restyling(method="lab", probability=0.5),
    adversarial=Adversarial(weight=0.003, width=16, scale=0.5, begin=200),
    matching=Matching(weight=0.01, capacity=20),
    fine_grained=FineGrained(weight=0.003, width=64, begin=200),
    anchors=Anchors(margin=0.5, min_pixels=4),
    teacher=Teacher(alpha=0.99, confidence=0.8),
    masked_consistency=MaskedConsistency(block=16),
    evaluation=Evaluation(at="pictures", batch=8),
    deterministic=True,
    running=Running(workers=0, cache=True),
)

SMOKE = SMALL.model_copy(
    update={
        "pictures": Pictures(source_size=(48, 96), target_size=(48, 96), batch=2),
        "augmentation": SMALL.augmentation.model_copy(update={"crop": None}),
        "schedule": Schedule(steps=12, horizon=12, warmup=2, log_every=2, evaluate_every=6, save_every=6),
        "adversarial": Adversarial(weight=0.003, width=4, begin=0),
        "matching": Matching(weight=0.01, capacity=4),
        "fine_grained": FineGrained(weight=0.003, width=8),
        "evaluation": Evaluation(at="pictures", batch=4, previews=2),
    }
)

SIZES: dict[str, Size] = {"full": FULL, "full-vgg16": FULL_VGG16, "small": SMALL, "smoke": SMOKE}
