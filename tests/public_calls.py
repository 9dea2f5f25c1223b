"""One right call of every public class, function and method that takes arguments, on inputs of any size and dtype.

Tests of what holds for all of them go through ``CALLS``; a new public name needs a line here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import stuffinstance as si
from tests.label_maps import IGNORE

K, D = 3, 4
SPACE = si.LabelSpace(names=("road", "car", "person"), stuff=(0,), things=(1, 2))


class Maps:
    """A batch of images and what a trainer has of them: new tensors of the same values at every reading."""

    def __init__(
        self, batch: int = 2, height: int = 5, width: int = 6, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        self.size, self.dtype, self.device = (batch, height, width), dtype, device

    @property
    def labels(self) -> Tensor:
        ids = torch.arange(math.prod(self.size)).view(self.size) % K
        ids[:, 0, 0] = IGNORE
        return ids.to(self.device)

    @property
    def mask(self) -> Tensor:
        return self.labels == 1

    def channels(self, count: int, scale: int = 1) -> Tensor:
        """A wave (B, C, H, W) of sizes ``scale`` times as large."""
        batch, height, width = self.size
        shape = (batch, count, scale * height, scale * width)
        return (7 * torch.linspace(-1, 1, math.prod(shape))).sin().view(shape).to(self.device, self.dtype)

    @property
    def features(self) -> Tensor:
        return self.channels(D)

    @property
    def logits(self) -> Tensor:
        """Right at most pixels."""
        right = nn.functional.one_hot(Maps(*self.size).labels.clamp(max=K - 1), K).movedim(3, 1)
        return 3 * right.to(self.device, self.dtype) + self.channels(K)

    @property
    def probabilities(self) -> Tensor:
        return (3 * self.channels(K)).softmax(1)

    @property
    def images(self) -> Tensor:
        return self.channels(3) / 2 + 0.5

    def full(self, *shape: int, value: float) -> Tensor:
        return torch.full(shape, value, dtype=self.dtype, device=self.device)


class Call(NamedTuple):
    """What is called, with arguments that are right.

    Attributes:
        make: Makes the object of which ``method`` is called.
        arguments: Right arguments of a batch, by name.
        method: Its name; None calls the object itself.
    """

    make: Callable[[], Any]
    arguments: Callable[[Maps], dict[str, Any]]
    method: str | None = None

    def bound(self) -> Callable[..., Any]:
        """The function or method of a fresh object."""
        thing = self.make()
        return thing if self.method is None else getattr(thing, self.method)


def matching(preset: str = "paper", **options: Any) -> si.StuffInstanceMatching:
    """Banks that hold rows of every class, past the warm-up."""
    sim = si.StuffInstanceMatching(SPACE, D, preset=preset, capacity=2, max_instances=2, **options)
    maps = Maps()
    for shift in range(3):
        sim.update(maps.features + 0.1 * shift, maps.labels, maps.logits)
    return sim


def anchors() -> si.CategoryAnchors:
    held = si.CategoryAnchors(K, D, min_pixels=1)
    held.update(Maps().features + 0.3, Maps().labels)
    return held


def distributions() -> si.ClassDistributions:
    held = si.ClassDistributions(K, D)
    held.update(Maps().features + 0.3, Maps().labels)
    return held


def seen(kind: Any, **options: Any) -> Any:
    """A threshold rule that has counted a batch."""
    rule = kind(K, **options)
    rule.update(Maps().probabilities)
    return rule


def sampler() -> si.RareClassSampler:
    return si.RareClassSampler(_pixels(Maps())["counts"], min_pixels=1)


def network() -> nn.Module:
    return nn.Conv2d(3, K, 1)


def _median() -> si.ClassBalancedThreshold:
    return seen(si.ClassBalancedThreshold, bins=100)


def _pixels(m: Maps) -> dict[str, Any]:
    """Pixels per class of each image."""
    return {"counts": 100 * m.labels.flatten(1)[:, 1 : K + 1]}


def _features(m: Maps) -> dict[str, Any]:
    return {"features": m.features, "labels": m.labels}


def _with_logits(m: Maps) -> dict[str, Any]:
    return {**_features(m), "logits": m.logits}


def _centers(m: Maps) -> dict[str, Any]:
    return {"features": m.features, "target": m.labels}


def _probabilities(m: Maps) -> dict[str, Any]:
    return {"probabilities": m.probabilities}


def _masked_logits(m: Maps) -> dict[str, Any]:
    return {"logits": m.logits, "mask": m.mask}


def _scores(m: Maps) -> dict[str, Any]:
    return {"scores": m.probabilities.amax(1), "predicted": m.labels}


def _two_predictions(m: Maps) -> dict[str, Any]:
    return {"probs_a": m.probabilities, "probs_b": m.probabilities.flip(1)}


def _halves(m: Maps) -> dict[str, Any]:
    return {"thresholds": m.full(K, value=0.5)}


def _target(m: Maps) -> dict[str, Any]:
    return {"target_features": m.channels(2 * K), "target_logits": m.logits}


def _source(m: Maps) -> dict[str, Any]:
    return {"source_features": m.channels(2 * K), "source_logits": m.logits}


def _discriminator() -> si.OutputDiscriminator:
    return si.OutputDiscriminator(K, width=1)


def _symmetric() -> si.SymmetricConsistency:
    module = si.SymmetricConsistency(si.ClassBalancedThreshold(K, bins=100))
    module.update(**_two_predictions(Maps()))
    return module


_SHARED = {"sync": "auto", "validate_args": False}
_BANK = {"feature_dim": D, "capacity": 2, **_SHARED}
_LOSS = {"distance": "l2", "require_full_bank": True}
_RULE = {"num_classes": K, "ignore_index": IGNORE, **_SHARED}
# What is made, with settings that no batch changes.
_SETTINGS: dict[Callable[..., Any], dict[str, Any]] = {
    si.LabelSpace: {
        "names": ("a", "b"),
        "stuff": ("a",),
        "things": (1,),
        "ignore_index": IGNORE,
        "palette": ((0, 0, 0), (1, 2, 3)),
    },
    si.StuffBank: {"classes": (0,), **_BANK},
    si.InstanceBank: {"classes": (0,), "max_instances": 2, "connectivity": 8, **_BANK},
    si.StuffMatchingLoss: {"bank": si.StuffBank((0,), D), "classifier": None, **_LOSS},
    si.InstanceMatchingLoss: {"bank": si.InstanceBank((0,), D), **_LOSS},
    si.head_classifier: {"module": nn.Conv2d(D, K, 1)},
    si.StuffInstanceMatching: {"space": SPACE, "preset": "code", "max_instances": 2, "classifier": None, **_BANK},
    si.CategoryAnchors: {"feature_dim": D, "min_pixels": 1, "max_count": 10, **_RULE},
    si.ClassDistributions: {"feature_dim": D, "min_fraction": 0.5, **_RULE},
    si.DistributionContrastLoss: {
        "distributions": distributions(),
        "temperature": 1.0,
        "ratio": 1.0,
        "regularizer_weight": 1.0,
        "reduction": "mean",
    },
    si.PrototypeContrastLoss: {"anchors": anchors(), "temperature": 0.5, "reduction": "mean"},
    si.AnchorDistanceLoss: {"anchors": anchors(), "preset": "code", "damp_above": 5.0, "scale_gradient": True},
    si.BankContrastLoss: {"bank": si.StuffBank((0,), D), "temperature": 100.0, "normalize": True, "reduction": "mean"},
    si.RegionContrastLoss: {
        "bank": si.InstanceBank((0,), D),
        "temperature": 0.1,
        "distance": "cosine",
        "positives": "nearest",
        "top_k": 2,
        "repel": 1.0,
        "negatives": si.StuffBank((1,), D),
        "min_area": 1,
        "min_confidence": 0.5,
        "require_full_bank": True,
    },
    si.MaxSquareLoss: {"image_wise": True, "alpha": 0.2},
    si.OutputDiscriminator: {"num_classes": K, "width": 1},
    si.OutputAdversarialLoss: {"discriminator": _discriminator(), "objective": "bce", "of": "probabilities"},
    si.FineGrainedDiscriminator: {"feature_dim": D, "num_classes": K, "width": 2},
    si.FineGrainedAdversarialLoss: {
        "discriminator": _discriminator(),
        "temperature": 1.8,
        "clip": 0.9,
        "encoding": "soft",
    },
    si.FeatureDistanceLoss: {"classes": (1, 2), "num_classes": K, "min_fraction": 0.75, "ignore_index": IGNORE},
    si.FoundationFeatureLoss: {
        "feature_dim": D,
        "foundation_dim": 2,
        "smooth_l1_weight": 0.1,
        "cosine_weight": 0.9,
    },
    si.ClassBalancedThreshold: {"quantile": 0.5, "cap": 0.9, "bins": 100, **_RULE},
    si.IASTThreshold: {"start": 0.9, "alpha": 0.2, "beta": 0.9, "gamma": 8.0, **_RULE},
    si.CBSTThreshold: {"portion": 0.2, "step": 0.05, "max_portion": 0.5, "bins": 100, **_RULE},
    si.SinkhornLabels: {"epsilon": 0.5, "rounds": 3, **_SHARED},
    si.SymmetricConsistency: {"rule": si.ClassBalancedThreshold(K, bins=100), "consistency": "l1"},
    si.MeanTeacher: {"network": network(), "alpha": 0.9, "ramp": False},
    si.FrozenNetwork: {"network": network()},
    si.MeanIoU: {**_RULE},
    si.ClassCenterDistance: {"num_classes": K, "feature_dim": D, "ignore_index": IGNORE, "sync": "auto"},
    si.PredictionEntropy: {"num_classes": K, **_SHARED},
    si.SoftNeighborhoodDensity: {"temperature": 0.05, "sample": 10, **_SHARED},
}
_FUNCTIONS: dict[Callable[..., Any], Callable[[Maps], dict[str, Any]]] = {
    si.connected_components: lambda m: {
        "labels": m.labels,
        "classes": (1, 2),
        "connectivity": 8,
        "ignore_index": IGNORE,
        "backend": "auto",
    },
    si.stuff_regions: lambda m: {"labels": m.labels, "classes": (0, 2)},
    si.instance_regions: lambda m: {
        "labels": m.labels,
        "classes": (1, 2),
        "max_regions": 2,
        "connectivity": 4,
        "ignore_index": IGNORE,
        "backend": "auto",
    },
    si.region_mean: lambda m: {
        "features": m.features,
        "regions": m.labels.clamp(max=K),
        "num_regions": K,
        "backend": "auto",
    },
    si.resize_labels: lambda m: {"labels": m.labels, "size": (m.size[1] // 2, 3)},
    si.majority_labels: lambda m: {
        "labels": m.labels,
        "size": (m.size[1] // 2, 3),
        "num_classes": K,
        "min_fraction": 0.5,
        "ignore_index": IGNORE,
    },
    si.correct_labels: lambda m: {"labels": m.labels, "logits": m.logits, "ignore_index": IGNORE},
    si.merge_pseudo_labels: lambda m: {"predicted": m.labels, "pseudo": m.labels, "ignore_index": IGNORE},
    si.RareClassSampler: lambda m: {
        **_pixels(m),
        "temperature": 0.01,
        "min_pixels": 1,
        "num_samples": 4,
        "with_class": True,
        "seed": 0,
        "num_replicas": 2,
        "rank": 1,
    },
    si.count_class_pixels: lambda m: {
        "dataset": list(m.labels % K),
        "num_classes": K,
        "label_key": None,
        "ignore_index": IGNORE,
    },
    si.class_weights: lambda m: {**_pixels(m), "scheme": "effective", "beta": 0.999},
    si.stuff_matching_loss: lambda m: {**_features(m), "bank": matching().stuff_bank, "classifier": None, **_LOSS},
    si.instance_matching_loss: lambda m: {**_features(m), "bank": matching().instance_bank, **_LOSS},
    si.anchor_distance_loss: lambda m: {
        **_with_logits(m),
        "anchors": anchors(),
        "preset": "code",
        "damp_above": 5.0,
        "scale_gradient": True,
    },
    si.entropy_map: _probabilities,
    si.weighted_cross_entropy: lambda m: {
        "logits": m.logits,
        "labels": m.labels,
        "weights": m.full(*m.size, value=1.0),
        "ignore_index": IGNORE,
    },
    si.symmetric_cross_entropy: lambda m: {
        "logits": m.logits,
        "labels": m.labels,
        "ignore_index": IGNORE,
        "ce_weight": 0.1,
        "rce_weight": 1.0,
        "floor": 1e-4,
    },
    si.soft_cross_entropy: lambda m: {**_masked_logits(m), "soft": m.probabilities},
    si.mrkld_regularizer: lambda m: {**_masked_logits(m), "weight": 0.1},
    si.soft_labels: lambda m: {**_probabilities(m), **_halves(m), "alpha": 0.25, "validate_args": False},
    si.class_mix: lambda m: {
        "source_images": m.images,
        "source_labels": m.labels,
        "target_images": m.images / 2,
        "target_labels": m.labels.flip(1),
        "num_classes": 256,
        "ignore_index": IGNORE,
        "generator": torch.Generator(),
    },
    si.random_block_mask: lambda m: {
        "images": m.images,
        "block": 2,
        "ratio": 0.5,
        "fill": (0.1, 0.2, 0.3),
        "generator": torch.Generator(),
    },
    si.random_token_mask: lambda m: {
        "tokens": m.features.flatten(2).mT,
        "mask_token": m.full(D, value=0.5),
        "ratio": 0.5,
        "num_prefix_tokens": 1,
        "generator": torch.Generator(),
    },
    si.fuse_resolutions: lambda m: {
        "context_logits": m.logits,
        "detail_logits": m.channels(K).flip(2),
        "attention_logits": m.channels(K),
        "size": (2 * m.size[1] + 1, 2 * m.size[2]),
        "corner": (1, 2),
    },
    si.confident_fraction: lambda m: {**_probabilities(m), "threshold": 0.9},
    si.fourier_amplitude_transfer: lambda m: {"source": m.images, "target": m.images / 2, "window": 0.1},
    si.lab_color_transfer: lambda m: {"source": m.images, "target": m.images / 2},
    si.class_center_distance: lambda m: {**_centers(m), "num_classes": K, "ignore_index": IGNORE},
}
# Methods of what is made here; a name with " of ..." is another call of the same method.
_METHODS: dict[str, tuple[Callable[[], Any], Callable[[Maps], dict[str, Any]]]] = {
    "LabelSpace.ids": (lambda: SPACE, lambda m: {"names": ("car",)}),
    "LabelSpace.mapping_from": (lambda: SPACE, lambda m: {"other": si.CITYSCAPES}),
    "StuffBank.update": (lambda: matching().stuff_bank, lambda m: {**_features(m), "classifier": None}),
    "InstanceBank.update": (lambda: matching().instance_bank, lambda m: {**_features(m), "classifier": None}),
    "StuffMatchingLoss.forward": (lambda: matching().stuff_loss, _features),
    "StuffMatchingLoss.forward of a callable": (
        lambda: si.StuffMatchingLoss(matching().stuff_bank, lambda a, b: (a - b).abs().mean(-1)),
        _features,
    ),
    "InstanceMatchingLoss.forward": (lambda: matching().instance_loss, _features),
    "InstanceMatchingLoss.matches": (lambda: matching().instance_loss, _features),
    "StuffInstanceMatching.update": (
        matching,
        lambda m: {"source_features": m.features, "source_labels": m.labels, "source_logits": m.logits},
    ),
    "StuffInstanceMatching.forward": (
        matching,
        lambda m: {"target_features": m.features, "target_logits": m.logits, "pseudo_labels": m.labels},
    ),
    "CategoryAnchors.update": (anchors, _with_logits),
    "CategoryAnchors.assign": (anchors, lambda m: {"features": m.features, "margin": 0.1}),
    "AnchorDistanceLoss.forward": (lambda: si.AnchorDistanceLoss(anchors()), _with_logits),
    "AnchorDistanceLoss.forward of pixels": (lambda: si.AnchorDistanceLoss(anchors(), preset="paper"), _with_logits),
    "BankContrastLoss.forward": (lambda: si.BankContrastLoss(matching().instance_bank), _features),
    "BankContrastLoss.forward of two banks": (
        lambda: si.BankContrastLoss((matching().stuff_bank, matching().instance_bank), 0.5, normalize=False),
        _features,
    ),
    "ClassDistributions.update": (distributions, _features),
    "DistributionContrastLoss.forward": (lambda: si.DistributionContrastLoss(distributions(), 0.5), _features),
    "PrototypeContrastLoss.forward": (lambda: si.PrototypeContrastLoss(anchors(), 0.5), _with_logits),
    "SinkhornLabels.forward": (
        lambda: si.SinkhornLabels(0.5),
        lambda m: {"scores": m.logits, "prior": m.full(K, value=0.5)},
    ),
    "RegionContrastLoss.forward": (
        lambda: si.RegionContrastLoss(matching().instance_bank, min_confidence=0.1),
        lambda m: {**_features(m), "confidence": m.probabilities.amax(1)},
    ),
    "RegionContrastLoss.forward of two banks": (
        lambda: si.RegionContrastLoss(
            matching().instance_bank, 0.5, negatives=matching().stuff_bank, positives="all", repel=0.5
        ),
        _features,
    ),
    "RegionContrastLoss.forward of several rows": (
        lambda: si.RegionContrastLoss(matching().instance_bank, 0.5, "l1_mean", positives="top_k", top_k=2),
        _features,
    ),
    "EntropyLoss.forward": (si.EntropyLoss, _masked_logits),
    "MaxSquareLoss.forward": (si.MaxSquareLoss, _masked_logits),
    "OutputDiscriminator.forward": (_discriminator, lambda m: {"probabilities": m.channels(K, 8).softmax(1)}),
    "OutputAdversarialLoss.generator_loss": (
        lambda: si.OutputAdversarialLoss(_discriminator()),
        lambda m: {"target_logits": m.channels(K, 8)},
    ),
    "OutputAdversarialLoss.discriminator_loss": (
        lambda: si.OutputAdversarialLoss(_discriminator(), "least_squares", "entropy"),
        lambda m: {"source_logits": m.channels(K, 8), "target_logits": m.channels(K, 8)},
    ),
    "FineGrainedDiscriminator.forward": (
        lambda: si.FineGrainedDiscriminator(D, K, 2),
        lambda m: {"features": m.features},
    ),
    "FineGrainedAdversarialLoss.generator_loss": (lambda: si.FineGrainedAdversarialLoss(nn.Identity()), _target),
    "FineGrainedAdversarialLoss.discriminator_loss": (
        lambda: si.FineGrainedAdversarialLoss(nn.Identity(), encoding="hard"),
        lambda m: {**_source(m), **_target(m)},
    ),
    "FeatureDistanceLoss.forward": (
        lambda: si.FeatureDistanceLoss((1, 2), K, min_fraction=0.5),
        lambda m: {**_features(m), "start_features": m.features.flip(1)},
    ),
    "FoundationFeatureLoss.forward": (
        lambda: si.FoundationFeatureLoss(D, 2),
        lambda m: {"features": m.features, "foundation_features": m.channels(2)},
    ),
    "ClassBalancedThreshold.update": (_median, _probabilities),
    "ClassBalancedThreshold.update_scores": (_median, _scores),
    "ClassBalancedThreshold.pseudo_labels": (_median, lambda m: {**_probabilities(m), **_halves(m)}),
    "ClassBalancedThreshold.filter": (_median, lambda m: {**_scores(m), **_halves(m)}),
    "ClassBalancedThreshold.merge": (_median, lambda m: {"other": si.ClassBalancedThreshold(K, bins=100)}),
    "IASTThreshold.update": (lambda: si.IASTThreshold(K), _probabilities),
    "CBSTThreshold.update": (lambda: si.CBSTThreshold(K, bins=100), _probabilities),
    "CBSTThreshold.compute": (lambda: seen(si.CBSTThreshold, bins=100), lambda m: {"round_number": 1}),
    "CBSTThreshold.portion_at": (lambda: si.CBSTThreshold(K), lambda m: {"round_number": 1}),
    "CBSTThreshold.pseudo_labels": (
        lambda: seen(si.CBSTThreshold, bins=100),
        lambda m: {**_probabilities(m), **_halves(m)},
    ),
    "SymmetricConsistency.forward": (_symmetric, _two_predictions),
    "SymmetricConsistency.update": (_symmetric, _two_predictions),
    "SymmetricConsistency.pseudo_labels": (_symmetric, lambda m: {**_two_predictions(m), **_halves(m)}),
    "SymmetricConsistency.merge": (_symmetric, lambda m: {"other": _symmetric()}),
    "MeanTeacher.update": (lambda: si.MeanTeacher(network()), lambda m: {"network": network()}),
    "MeanIoU.update": (lambda: si.MeanIoU(K), lambda m: {"preds": m.labels % K, "target": m.labels}),
    "MeanIoU.update of logits": (lambda: si.MeanIoU(K), lambda m: {"preds": m.logits, "target": m.labels}),
    "MeanIoU.compute": (lambda: si.MeanIoU(K), lambda m: {"classes": (0, 2)}),
    "MeanIoU.merge": (lambda: si.MeanIoU(K), lambda m: {"other": si.MeanIoU(K)}),
    "ClassCenterDistance.update": (lambda: si.ClassCenterDistance(K, D), _centers),
    "ClassCenterDistance.merge": (
        lambda: si.ClassCenterDistance(K, D),
        lambda m: {"other": si.ClassCenterDistance(K, D)},
    ),
    "PredictionEntropy.update": (lambda: si.PredictionEntropy(K), lambda m: {"preds": m.probabilities}),
    "PredictionEntropy.merge": (lambda: si.PredictionEntropy(K), lambda m: {"other": si.PredictionEntropy(K)}),
    "RareClassSampler.set_epoch": (sampler, lambda m: {"epoch": 1}),
    "RareClassSampler.load_state_dict": (sampler, lambda m: {"state_dict": {"epoch": 1, "position": 1}}),
    "SoftNeighborhoodDensity.update": (
        lambda: si.SoftNeighborhoodDensity(sample=10),
        lambda m: {"preds": m.probabilities},
    ),
}
CALLS: dict[str, Call] = {
    **{
        thing.__name__: Call(lambda t=thing: t, lambda m, given=given: dict(given))
        for thing, given in _SETTINGS.items()
    },
    **{thing.__name__: Call(lambda t=thing: t, given) for thing, given in _FUNCTIONS.items()},
    **{name: Call(make, given, name.split(" of ")[0].split(".")[1]) for name, (make, given) in _METHODS.items()},
}
# Results, errors and what is abstract: nobody makes them but the library.
NOT_CALLED = {
    "BackendUnavailableError", "CITYSCAPES", "IoU", "Matches", "MatchingLosses", "ClassMixOutput", "Regions",
    "SYNTHIA_13", "SYNTHIA_16", "FusedPrediction", "PseudoLabelThreshold",
}  # fmt: skip
# A right result may hold NaN or infinity, as the documentation says.
UNDEFINED = {"MeanIoU.compute", "class_center_distance", "FoundationFeatureLoss.forward"}
# What is differentiated, and its argument that carries the gradient.
LOSSES = {
    "StuffInstanceMatching.forward": "target_features",
    "FineGrainedAdversarialLoss.generator_loss": "target_features",
    "OutputAdversarialLoss.generator_loss": "target_logits",
    "OutputDiscriminator.forward": "probabilities",
    "entropy_map": "probabilities",
    "random_block_mask": "images",
    "fuse_resolutions": "detail_logits",
    "random_token_mask": "tokens",
} | dict.fromkeys((
    "region_mean", "FineGrainedDiscriminator.forward", "StuffMatchingLoss.forward", "InstanceMatchingLoss.forward",
    "stuff_matching_loss", "instance_matching_loss", "anchor_distance_loss", "AnchorDistanceLoss.forward",
    "AnchorDistanceLoss.forward of pixels", "BankContrastLoss.forward", "BankContrastLoss.forward of two banks",
    "FeatureDistanceLoss.forward", "FoundationFeatureLoss.forward",
    "DistributionContrastLoss.forward", "PrototypeContrastLoss.forward",
    "RegionContrastLoss.forward", "RegionContrastLoss.forward of two banks",
    "RegionContrastLoss.forward of several rows",
), "features") | dict.fromkeys((
    "EntropyLoss.forward", "MaxSquareLoss.forward", "weighted_cross_entropy", "soft_cross_entropy", "mrkld_regularizer",
    "symmetric_cross_entropy",
), "logits")  # fmt: skip


def total(values: Any) -> Tensor:
    """A scalar of a result, with its gradient."""
    return torch.stack([each.square().sum() if each.ndim else each for each in tensors_in(values)]).sum()


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors of a result, floats as tensors."""
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in tensors_in(value)]
    return [torch.tensor(values)] if isinstance(values, float) else [values] if isinstance(values, Tensor) else []
