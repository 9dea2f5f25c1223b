"""Calls of every public function and module with one argument wrong: a result, or an error that names an argument."""

from __future__ import annotations

import inspect
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from stuffinstance import plotting
from tests.label_maps import IGNORE

K, D = 3, 4
SPACE = si.LabelSpace(names=("road", "car", "person"), stuff=(0,), things=(1, 2))
SIZE = (5, 6)


class Call(NamedTuple):
    """What is called, with arguments that are right.

    Attributes:
        make: A fresh object, or the function itself.
        arguments: Right arguments by name.
        method: What of the object is called; None calls it itself.
        undefined: Whether a right result may hold NaN or infinity, as the documentation says.
        inner: What messages may name instead: an argument of a part that the caller made.
    """

    make: Callable[[], Any]
    arguments: Mapping[str, Any]
    method: str | None = None
    undefined: bool = False
    inner: str = "\0"


def labels() -> Tensor:
    ids = torch.arange(2 * SIZE[0] * SIZE[1]).view(2, *SIZE) % K
    ids[:, 0, 0] = IGNORE
    return ids


def features(channels: int = D) -> Tensor:
    return torch.linspace(-1, 1, 2 * channels * SIZE[0] * SIZE[1]).view(2, channels, *SIZE).sin()


def probabilities() -> Tensor:
    return (3 * features(K)).softmax(1)


def images() -> Tensor:
    return features(3) / 2 + 0.5


def mask() -> Tensor:
    return labels() == 1


def large(channels: int) -> Tensor:
    return torch.linspace(-1, 1, 2 * channels * 32 * 32).view(2, channels, 32, 32)


def filled_matching() -> si.StuffInstanceMatching:
    sim = si.StuffInstanceMatching(SPACE, D, preset="paper", capacity=2, max_instances=2)
    sim.update(features(), labels(), logits_of(labels()))
    return sim


def logits_of(ids: Tensor) -> Tensor:
    return 5 * nn.functional.one_hot(ids.clamp(max=K - 1), K).movedim(3, 1).float()


def filled_anchors() -> si.CategoryAnchors:
    anchors = si.CategoryAnchors(K, D, min_pixels=1)
    anchors.update(features(), labels())
    return anchors


def seen(rule: Any) -> Any:
    rule.update(probabilities())
    return rule


def symmetric() -> si.SymmetricConsistency:
    return si.SymmetricConsistency(si.ClassBalancedThreshold(K, bins=100))


def network() -> nn.Module:
    return nn.Conv2d(3, K, 1)


def function(thing: Any, /, undefined: bool = False, **arguments: Any) -> Call:
    return Call(lambda: thing, arguments, None, undefined)


def method(make: Callable[[], Any], name: str, /, undefined: bool = False, inner: str = "\0", **arguments: Any) -> Call:
    return Call(make, arguments, name, undefined, inner)


_MAPS = {"features": features(), "labels": labels()}
_DISCRIMINATOR = si.OutputDiscriminator(K, width=1)
CALLS: dict[str, Call] = {
    # regions and pooling
    "connected_components": function(
        si.connected_components, labels=labels(), classes=(1, 2), connectivity=8, ignore_index=IGNORE, backend="auto"
    ),
    "stuff_regions": function(si.stuff_regions, labels=labels(), classes=(0, 2)),
    "instance_regions": function(
        si.instance_regions,
        labels=labels(),
        classes=(1, 2),
        max_regions=2,
        connectivity=4,
        ignore_index=IGNORE,
        backend="auto",
    ),
    "region_mean": function(
        si.region_mean, features=features(), regions=labels().clamp(max=K), num_regions=K, backend="auto"
    ),
    "resize_labels": function(si.resize_labels, labels=labels(), size=(2, 3)),
    "correct_labels": function(si.correct_labels, labels=labels(), logits=features(K), ignore_index=IGNORE),
    "merge_pseudo_labels": function(si.merge_pseudo_labels, predicted=labels(), pseudo=labels(), ignore_index=IGNORE),
    # banks and matching
    "LabelSpace": function(
        si.LabelSpace,
        names=("a", "b"),
        stuff=("a",),
        things=(1,),
        ignore_index=IGNORE,
        palette=((0, 0, 0), (1, 2, 3)),
    ),
    "LabelSpace.ids": method(lambda: SPACE, "ids", names=("car",)),
    "LabelSpace.mapping_from": method(lambda: SPACE, "mapping_from", other=si.CITYSCAPES),
    "StuffBank": function(si.StuffBank, classes=(0,), feature_dim=D, capacity=2, sync="auto", validate_args=False),
    "StuffBank.update": method(lambda: filled_matching().stuff_bank, "update", **_MAPS, classifier=None),
    "InstanceBank": function(
        si.InstanceBank,
        classes=(0,),
        feature_dim=D,
        capacity=2,
        max_instances=2,
        connectivity=8,
        sync="auto",
        validate_args=False,
    ),
    "InstanceBank.update": method(lambda: filled_matching().instance_bank, "update", **_MAPS, classifier=None),
    "StuffMatchingLoss": function(
        si.StuffMatchingLoss, bank=si.StuffBank((0,), D), distance="l2", require_full_bank=True, classifier=None
    ),
    "StuffMatchingLoss.forward": method(lambda: filled_matching().stuff_loss, "forward", **_MAPS),
    "InstanceMatchingLoss": function(
        si.InstanceMatchingLoss, bank=si.InstanceBank((0,), D), distance="l2", require_full_bank=True
    ),
    "stuff_matching_loss": function(
        si.stuff_matching_loss,
        **_MAPS,
        bank=filled_matching().stuff_bank,
        distance="l2",
        require_full_bank=True,
        classifier=None,
    ),
    "instance_matching_loss": function(
        si.instance_matching_loss,
        **_MAPS,
        bank=filled_matching().instance_bank,
        distance="l2",
        require_full_bank=True,
    ),
    "anchor_distance_loss": function(
        si.anchor_distance_loss,
        **_MAPS,
        anchors=filled_anchors(),
        logits=features(K),
        preset="code",
        damp_above=5.0,
        scale_gradient=True,
    ),
    "head_classifier": function(si.head_classifier, module=torch.nn.Conv2d(D, K, 1)),
    "InstanceMatchingLoss.forward": method(lambda: filled_matching().instance_loss, "forward", **_MAPS),
    "InstanceMatchingLoss.matches": method(lambda: filled_matching().instance_loss, "matches", **_MAPS),
    "StuffInstanceMatching": function(
        si.StuffInstanceMatching,
        space=SPACE,
        feature_dim=D,
        preset="code",
        capacity=2,
        max_instances=2,
        classifier=None,
        sync="auto",
        validate_args=False,
    ),
    "StuffInstanceMatching.update": method(
        filled_matching,
        "update",
        source_features=features(),
        source_labels=labels(),
        source_logits=features(K),
    ),
    "StuffInstanceMatching.forward": method(
        filled_matching,
        "forward",
        target_features=features(),
        target_logits=features(K),
        pseudo_labels=labels(),
    ),
    "CategoryAnchors": function(
        si.CategoryAnchors,
        num_classes=K,
        feature_dim=D,
        min_pixels=1,
        max_count=10,
        ignore_index=IGNORE,
        sync="auto",
        validate_args=False,
    ),
    "CategoryAnchors.update": method(filled_anchors, "update", **_MAPS, logits=features(K)),
    "CategoryAnchors.assign": method(filled_anchors, "assign", features=features(), margin=0.1),
    # losses
    "AnchorDistanceLoss": function(
        si.AnchorDistanceLoss, anchors=filled_anchors(), preset="code", damp_above=5.0, scale_gradient=True
    ),
    "AnchorDistanceLoss.forward": method(
        lambda: si.AnchorDistanceLoss(filled_anchors()), "forward", **_MAPS, logits=features(K)
    ),
    "AnchorDistanceLoss.forward of pixels": method(
        lambda: si.AnchorDistanceLoss(filled_anchors(), preset="paper"), "forward", **_MAPS, logits=features(K)
    ),
    "entropy_map": function(si.entropy_map, probabilities=probabilities()),
    "EntropyLoss.forward": method(si.EntropyLoss, "forward", logits=features(K), mask=mask()),
    "MaxSquareLoss": function(si.MaxSquareLoss, image_wise=True, alpha=0.2),
    "MaxSquareLoss.forward": method(si.MaxSquareLoss, "forward", logits=features(K), mask=mask()),
    "OutputDiscriminator": function(si.OutputDiscriminator, num_classes=K, width=1),
    "OutputDiscriminator.forward": method(lambda: _DISCRIMINATOR, "forward", probabilities=large(K)),
    "OutputAdversarialLoss": function(
        si.OutputAdversarialLoss, discriminator=_DISCRIMINATOR, objective="bce", of="probabilities"
    ),
    "OutputAdversarialLoss.generator_loss": method(
        lambda: si.OutputAdversarialLoss(_DISCRIMINATOR),
        "generator_loss",
        inner="probabilities",
        target_logits=large(K),
    ),
    "OutputAdversarialLoss.discriminator_loss": method(
        lambda: si.OutputAdversarialLoss(_DISCRIMINATOR, of="entropy"),
        "discriminator_loss",
        inner="probabilities",
        source_logits=large(K),
        target_logits=large(K),
    ),
    "FineGrainedDiscriminator": function(si.FineGrainedDiscriminator, feature_dim=D, num_classes=K, width=2),
    "FineGrainedDiscriminator.forward": method(
        lambda: si.FineGrainedDiscriminator(D, K, 2), "forward", features=features()
    ),
    "FineGrainedAdversarialLoss": function(
        si.FineGrainedAdversarialLoss, discriminator=_DISCRIMINATOR, temperature=1.8, clip=0.9, encoding="soft"
    ),
    "FineGrainedAdversarialLoss.generator_loss": method(
        lambda: si.FineGrainedAdversarialLoss(nn.Identity()),
        "generator_loss",
        target_features=features(2 * K),
        target_logits=features(K),
    ),
    "FineGrainedAdversarialLoss.discriminator_loss": method(
        lambda: si.FineGrainedAdversarialLoss(nn.Identity(), encoding="hard"),
        "discriminator_loss",
        source_features=features(2 * K),
        source_logits=features(K),
        target_features=features(2 * K),
        target_logits=features(K),
    ),
    # thresholds
    "ClassBalancedThreshold": function(
        si.ClassBalancedThreshold,
        num_classes=K,
        quantile=0.5,
        cap=0.9,
        ignore_index=IGNORE,
        bins=100,
        sync="auto",
        validate_args=False,
    ),
    "ClassBalancedThreshold.update": method(
        lambda: si.ClassBalancedThreshold(K, bins=100), "update", probabilities=probabilities()
    ),
    "ClassBalancedThreshold.update_scores": method(
        lambda: si.ClassBalancedThreshold(K, bins=100),
        "update_scores",
        scores=probabilities().amax(1),
        predicted=labels(),
    ),
    "ClassBalancedThreshold.pseudo_labels": method(
        lambda: seen(si.ClassBalancedThreshold(K, bins=100)),
        "pseudo_labels",
        probabilities=probabilities(),
        thresholds=torch.full((K,), 0.5),
    ),
    "ClassBalancedThreshold.filter": method(
        lambda: seen(si.ClassBalancedThreshold(K, bins=100)),
        "filter",
        scores=probabilities().amax(1),
        predicted=labels(),
        thresholds=torch.full((K,), 0.5),
    ),
    "ClassBalancedThreshold.merge": method(
        lambda: seen(si.ClassBalancedThreshold(K, bins=100)), "merge", other=si.ClassBalancedThreshold(K, bins=100)
    ),
    "IASTThreshold": function(
        si.IASTThreshold,
        num_classes=K,
        start=0.9,
        alpha=0.2,
        beta=0.9,
        gamma=8.0,
        ignore_index=IGNORE,
        sync="auto",
        validate_args=False,
    ),
    "IASTThreshold.update": method(lambda: si.IASTThreshold(K), "update", probabilities=probabilities()),
    "CBSTThreshold": function(
        si.CBSTThreshold,
        num_classes=K,
        portion=0.2,
        step=0.05,
        max_portion=0.5,
        ignore_index=IGNORE,
        bins=100,
        sync="auto",
        validate_args=False,
    ),
    "CBSTThreshold.compute": method(lambda: seen(si.CBSTThreshold(K, bins=100)), "compute", round_number=1),
    "CBSTThreshold.portion_at": method(lambda: si.CBSTThreshold(K, bins=100), "portion_at", round_number=1),
    "CBSTThreshold.pseudo_labels": method(
        lambda: seen(si.CBSTThreshold(K, bins=100)),
        "pseudo_labels",
        probabilities=probabilities(),
        thresholds=torch.full((K,), 0.5),
    ),
    "SymmetricConsistency": function(
        si.SymmetricConsistency, rule=si.ClassBalancedThreshold(K, bins=100), consistency="l1"
    ),
    "SymmetricConsistency.forward": method(symmetric, "forward", probs_a=probabilities(), probs_b=probabilities()),
    "SymmetricConsistency.update": method(symmetric, "update", probs_a=probabilities(), probs_b=probabilities()),
    "SymmetricConsistency.merge": method(symmetric, "merge", other=symmetric()),
    "soft_labels": function(
        si.soft_labels,
        probabilities=probabilities(),
        thresholds=torch.full((K,), 0.5),
        alpha=0.25,
        validate_args=False,
    ),
    "soft_cross_entropy": function(si.soft_cross_entropy, logits=features(K), soft=probabilities(), mask=mask()),
    "mrkld_regularizer": function(si.mrkld_regularizer, logits=features(K), mask=mask(), weight=0.1),
    # self-training
    "MeanTeacher": function(si.MeanTeacher, network=network(), alpha=0.9),
    "MeanTeacher.update": method(lambda: si.MeanTeacher(network()), "update", network=network()),
    "class_mix": function(
        si.class_mix,
        source_images=images(),
        source_labels=labels(),
        target_images=images(),
        target_labels=labels(),
        num_classes=256,
        ignore_index=IGNORE,
        generator=torch.Generator(),
    ),
    "random_block_mask": function(
        si.random_block_mask, images=images(), block=2, ratio=0.5, fill=(0.1, 0.2, 0.3), generator=torch.Generator()
    ),
    "confident_fraction": function(si.confident_fraction, probabilities=probabilities(), threshold=0.9),
    "weighted_cross_entropy": function(
        si.weighted_cross_entropy,
        logits=features(K),
        labels=labels(),
        weights=torch.ones(2, *SIZE),
        ignore_index=IGNORE,
    ),
    # style transfer
    "fourier_amplitude_transfer": function(si.fourier_amplitude_transfer, source=images(), target=images(), window=0.1),
    "lab_color_transfer": function(si.lab_color_transfer, source=images(), target=images()),
    # metrics
    "MeanIoU": function(si.MeanIoU, num_classes=K, ignore_index=IGNORE, sync="auto", validate_args=False),
    "MeanIoU.update": method(lambda: si.MeanIoU(K), "update", preds=labels() % K, target=labels()),
    "MeanIoU.update of logits": method(lambda: si.MeanIoU(K), "update", preds=features(K), target=labels()),
    "MeanIoU.compute": method(lambda: si.MeanIoU(K), "compute", undefined=True, classes=(0, 2)),
    "MeanIoU.merge": method(lambda: si.MeanIoU(K), "merge", other=si.MeanIoU(K)),
    "class_center_distance": function(
        si.class_center_distance,
        undefined=True,
        features=features(),
        target=labels(),
        num_classes=K,
        ignore_index=IGNORE,
    ),
    "ClassCenterDistance": function(
        si.ClassCenterDistance, num_classes=K, feature_dim=D, ignore_index=IGNORE, sync="auto"
    ),
    "ClassCenterDistance.update": method(
        lambda: si.ClassCenterDistance(K, D), "update", features=features(), target=labels()
    ),
    "ClassCenterDistance.merge": method(
        lambda: si.ClassCenterDistance(K, D), "merge", other=si.ClassCenterDistance(K, D)
    ),
    "PredictionEntropy": function(si.PredictionEntropy, num_classes=K, sync="auto", validate_args=False),
    "PredictionEntropy.update": method(lambda: si.PredictionEntropy(K), "update", preds=probabilities()),
    "PredictionEntropy.merge": method(lambda: si.PredictionEntropy(K), "merge", other=si.PredictionEntropy(K)),
    "SoftNeighborhoodDensity": function(
        si.SoftNeighborhoodDensity, temperature=0.05, sample=10, sync="auto", validate_args=False
    ),
    "SoftNeighborhoodDensity.update": method(si.SoftNeighborhoodDensity, "update", preds=probabilities()),
}

NOT_CALLED = {
    # results, errors and what is abstract: nobody makes them but this library
    "BackendUnavailableError",
    "CITYSCAPES",
    "IoU",
    "Matches",
    "MatchingLosses",
    "ClassMixOutput",
    "Regions",
    "SYNTHIA_13",
    "SYNTHIA_16",
    "FusedPrediction",
    "PseudoLabelThreshold",
    "EntropyLoss",  # takes no argument but those of forward
}


def quietly(make: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def in_eight_bits(right: Tensor) -> Tensor:
    torch.use_deterministic_algorithms(False)  # older releases cannot fill such memory, which the tests ask for
    try:
        return right.to(torch.float8_e5m2)
    finally:
        torch.use_deterministic_algorithms(True)


def mutated_tensors(right: Tensor, generator: random.Random) -> Iterator[tuple[str, Any]]:
    """The right tensor, spoilt in one way each."""
    place = tuple(generator.randrange(length) for length in right.shape)

    def with_value(value: Any, dtype: torch.dtype | None = None) -> Tensor:
        wrong = right.clone() if dtype is None else right.to(dtype)
        wrong[place] = value
        return wrong

    yield "one dimension less", right[0]
    yield "one dimension more", right[None]
    yield "a scalar", right.flatten()[0]
    yield "another batch", right[:1]
    yield "no image", right[:0]
    yield "no pixel", right[..., :0]
    yield "narrower", right[..., :-1]
    yield "one channel less", right[..., 1:] if right.ndim < 3 else right[:, 1:]
    yield "transposed", right.mT if right.ndim > 1 else right.flip(0)
    yield "strided", torch.stack([right, right], -1)[..., 0]
    yield "expanded", right[:1].expand(right.shape)
    yield "flipped batch", right.flip(0)
    yield "on meta", right.to("meta")
    yield "sparse", right.to_sparse()
    yield "sparse rows", quietly(lambda: right.reshape(right.shape[0], -1).to_sparse_csr())
    yield "nested", quietly(lambda: torch.nested.nested_tensor([right.flatten(), right.flatten()[:1]]))
    yield (
        "jagged",
        quietly(lambda: torch.nested.nested_tensor([right.flatten(), right.flatten()[:1]], layout=torch.jagged)),
    )
    yield "quantized", quietly(lambda: torch.quantize_per_tensor(right.float(), 0.1, 0, torch.quint8))
    yield "complex", right.to(torch.complex64)
    yield "needs a gradient", right.detach().float().requires_grad_()
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int32,
        torch.int64,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ):
        yield f"as {dtype}", right.to(dtype)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        yield f"as {dtype}", right.to(dtype)
    yield "in eight bits", in_eight_bits(right)
    if right.is_floating_point():
        for value in (math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-45, -0.0):
            yield f"with {value}", with_value(value)
        yield "all zero", torch.zeros_like(right)
        yield "times 1e30", 1e30 * right
    elif right.dtype != torch.bool:
        for value in (-1, -(2**63), 2**63 - 1, 2**40, 2**31, 7, IGNORE):
            yield f"with {value}", with_value(value)
        yield "all ignored", torch.full_like(right, IGNORE)
    else:
        yield "all False", torch.zeros_like(right)
    yield "an array", right.numpy()
    yield "a list", right.tolist()


def mutated_numbers(right: float) -> Iterator[tuple[str, Any]]:
    for value in (-1, 0, 1, 2, 7, -(2**63), 2**70, 10**400):
        yield repr(value)[:12], value
    for value in (0.5, 1.0, 254.9, 255.0, -0.5, math.nan, math.inf, -math.inf, 1e308, 5e-324):
        yield repr(value), value
    for kind in (np.int64, np.uint8, np.float32, np.float64, np.bool_, torch.tensor, np.array):
        yield f"as {kind.__name__}", kind(right if right < 256 else 2)
    yield "in an array", np.array([right])
    yield "in a tensor", torch.tensor([right])
    yield "a tensor on meta", torch.tensor(right, device="meta")
    yield "complex", complex(right, 1)


def anything() -> Iterator[tuple[str, Any]]:
    """What is of the wrong kind nearly everywhere."""
    for value in (
        None,
        True,
        False,
        "auto",
        "255",
        b"1",
        (),
        [],
        {},
        {"a": 1},
        (1, 2.5),
        ("car", 1),
        object,
        SPACE,
        len,
    ):
        yield repr(value)[:12], value
    yield "a class", object
    yield "a label space", SPACE
    yield "a function", len
    yield "a generator", (k for k in (0, 1))
    yield "a set", {1, 2}
    yield "an array", np.ones((2, 2))
    yield "a tensor", torch.ones(2)
    yield "ids in a tensor", torch.tensor([0, 2])
    yield "ids twice", (1, 1)
    yield "a negative id", (-1, 0)
    yield "a huge id", (2**70,)
    yield "ids with a bool", (True, 0)
    yield "ids as numpy", np.array([0, 2], dtype=np.uint8)


def mutations(name: str, call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments with one of them wrong, or two swapped."""
    generator = random.Random(name)
    for argument, right in call.arguments.items():
        wrong: list[tuple[str, Any]] = list(anything())
        if isinstance(right, Tensor):
            wrong += mutated_tensors(right, generator)
        elif isinstance(right, int | float) and not isinstance(right, bool):
            wrong += mutated_numbers(right)
        for what, value in wrong:
            yield f"{argument}: {what}", {**call.arguments, argument: value}
    for one, other in zip(call.arguments, list(call.arguments)[1:], strict=False):
        swapped = {one: call.arguments[other], other: call.arguments[one]}
        yield f"{one} and {other} swapped", {**call.arguments, **swapped}


def is_finite(values: Any) -> bool:
    return all(bool(value.isfinite().all()) for value in values_in(values))


def is_a_number(values: Any) -> bool:
    """What is too large for its dtype may become infinite, but never NaN."""
    return not any(bool(value.isnan().any()) for value in values_in(values))


def values_in(values: Any) -> list[Tensor]:
    """The tensors of a result that hold values, and its floats as tensors."""
    return [tensor for tensor in tensors_of(values) if tensor.device.type != "meta"]


def tensors_of(values: Any) -> list[Tensor]:
    if isinstance(values, tuple):
        return [tensor for value in values for tensor in tensors_of(value)]
    if isinstance(values, float):
        return [torch.tensor(values)]
    return [values] if isinstance(values, Tensor) else []


def state_of(thing: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in thing.state_dict().items()} if isinstance(thing, nn.Module) else {}


def fault_of(call: Call, thing: Any, arguments: Mapping[str, Any], bound: str = "finite") -> str | None:
    """What is wrong with the answer to such a call, or None."""
    run = thing if call.method is None else getattr(thing, call.method)
    before = state_of(thing)
    try:
        with torch.no_grad():
            result = run(**arguments)
    except (TypeError, ValueError) as error:
        if not any(name in str(error) for name in (*inspect.signature(run).parameters, call.inner)):
            return f"names no argument: {type(error).__name__}: {error}"
        after = state_of(thing)
        if any(not torch.equal(value, after[key]) for key, value in before.items()):
            return f"changed its state and then raised {error}"
        return None
    except Exception as error:
        return f"raised {type(error).__name__}: {str(error)[:200]}"
    right = is_finite if bound == "finite" else is_a_number
    if not right(tuple(state_of(thing).values())):
        return "holds NaN"
    given = tuple(value for value in arguments.values() if isinstance(value, Tensor))
    if not call.undefined and is_finite(given) and not right(result):
        return f"not {bound}, from finite values: {result}"
    return None


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_an_error_that_names_it(name: str) -> None:
    call = CALLS[name]
    thing = call.make()
    assert fault_of(call, thing, call.arguments) is None
    state = state_of(thing)
    faults = []
    for what, arguments in mutations(name, call):
        fault = fault_of(call, thing, arguments, "a number" if "e+30" in what or "1e30" in what else "finite")
        if fault is not None:
            faults.append(f"{what}: {fault}")
        if any(not torch.equal(value, state[key]) for key, value in state_of(thing).items()):
            thing = call.make()
            state = state_of(thing)
    assert not faults, "\n".join(faults)


# An image takes longer than all other calls of this file: only what is of the wrong kind is tried.
PLOTS: dict[str, Call] = {
    "plot_label_map": function(
        plotting.plot_label_map, labels=labels(), space=SPACE, image=images(), item=0, opacity=0.5, legend=True, ax=None
    ),
    "plot_regions": function(
        plotting.plot_regions,
        regions=si.stuff_regions(labels(), (0, 1)),
        image=images(),
        item=0,
        number="ids",
        opacity=0.5,
        ax=None,
    ),
    "plot_matches": function(
        plotting.plot_matches,
        matches=filled_matching().instance_loss.matches(features(), labels()),
        bank=filled_matching().instance_bank,
        space=SPACE,
        image=images(),
        item=0,
        most=3,
        ax=None,
    ),
    "plot_bank_fill": function(plotting.plot_bank_fill, banks=filled_matching().stuff_bank, space=SPACE, ax=None),
    "plot_bank_rows": function(
        plotting.plot_bank_rows,
        banks=filled_matching().stuff_bank,
        space=SPACE,
        projection="pca",
        rows_per_class=3,
        ax=None,
    ),
    "plot_confidences": function(
        plotting.plot_confidences,
        rule=seen(si.ClassBalancedThreshold(K, bins=100)),
        space=SPACE,
        thresholds=torch.full((K,), 0.5),
        classes=(0, "car"),
        ax=None,
    ),
    "plot_iou": function(
        plotting.plot_iou,
        scores=si.IoU(0.5, torch.full((K,), 0.5)),
        space=SPACE,
        classes=(0, "car"),
        styles=None,
        ax=None,
    ),
    "plot_kept_fractions": function(
        plotting.plot_kept_fractions,
        thresholds=torch.full((K,), 0.5),
        fractions=torch.full((K,), 0.5),
        space=SPACE,
        cap=0.9,
        ax=None,
    ),
}
WRONG_KINDS = (255.5, "car", [3], {"a": 1}, object(), np.ones((2, 2)), torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_of_a_wrong_argument_is_an_error_that_names_it(name: str) -> None:
    call = PLOTS[name]
    function = call.make()
    assert function(**call.arguments) is not None
    for argument in call.arguments:
        for wrong in WRONG_KINDS:
            assert fault_of(call, function, {**call.arguments, argument: wrong}) is None, (argument, wrong)


def on_meta(call: Call) -> dict[str, Any]:
    return {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in call.arguments.items()}


# What has weights or state takes its device from them.
SHAPES_ALONE = (
    "connected_components",
    "stuff_regions",
    "instance_regions",
    "region_mean",
    "resize_labels",
    "correct_labels",
    "merge_pseudo_labels",
    "entropy_map",
    "EntropyLoss.forward",
    "MaxSquareLoss.forward",
    "FineGrainedAdversarialLoss.generator_loss",
    "FineGrainedAdversarialLoss.discriminator_loss",
    "soft_labels",
    "soft_cross_entropy",
    "mrkld_regularizer",
    "class_mix",
    "random_block_mask",
    "confident_fraction",
    "weighted_cross_entropy",
    "class_center_distance",
    "fourier_amplitude_transfer",
    "lab_color_transfer",
)
MODULES_ALONE = (
    "StuffBank.update",
    "InstanceBank.update",
    "StuffMatchingLoss.forward",
    "InstanceMatchingLoss.forward",
    "StuffInstanceMatching.update",
    "StuffInstanceMatching.forward",
    "CategoryAnchors.update",
    "CategoryAnchors.assign",
    "FineGrainedDiscriminator.forward",
    "ClassBalancedThreshold.update",
    "ClassBalancedThreshold.pseudo_labels",
    "IASTThreshold.update",
    "CBSTThreshold.pseudo_labels",
    "MeanIoU.update",
    "ClassCenterDistance.update",
    "PredictionEntropy.update",
    "SoftNeighborhoodDensity.update",
)


@pytest.mark.parametrize("name", SHAPES_ALONE)
def test_shapes_propagate_on_meta(name: str) -> None:
    call = CALLS[name]
    thing = call.make()
    run = thing if call.method is None else getattr(thing, call.method)
    for one, other in zip(tensors_of(run(**on_meta(call))), tensors_of(run(**call.arguments)), strict=True):
        assert (one.device.type, one.shape, one.dtype) == ("meta", other.shape, other.dtype)


@pytest.mark.parametrize("name", MODULES_ALONE)
def test_modules_on_meta_take_what_is_on_meta(name: str) -> None:
    call = CALLS[name]
    thing = call.make()
    if isinstance(thing, si.StuffMatchingLoss | si.InstanceMatchingLoss):
        thing.bank.to("meta")  # which is not a part of the loss
    getattr(thing.to("meta"), call.method or "")(**on_meta(call))


def arguments_of(kind: type) -> list[tuple[str, str]]:
    """Calls and arguments whose right value is of exactly that type."""
    return [(name, key) for name, call in CALLS.items() for key, value in call.arguments.items() if type(value) is kind]


def run_with(name: str, argument: str, value: Any) -> Any:
    call = CALLS[name]
    thing = call.make()
    run = thing if call.method is None else getattr(thing, call.method)
    return run(**{**call.arguments, argument: value})


@pytest.mark.parametrize(("name", "argument"), arguments_of(int))
def test_whole_numbers_are_of_any_integer_type_and_of_no_other(name: str, argument: str) -> None:
    right = CALLS[name].arguments[argument]
    for wrong in (True, np.bool_(True), float(right), np.float64(right), 254.9, str(right), torch.tensor([right])):
        with pytest.raises(TypeError, match=rf"{argument} must be a whole number.*, got"):
            run_with(name, argument, wrong)
    for kind in (np.int64, np.int16, torch.tensor):
        run_with(name, argument, kind(right))


@pytest.mark.parametrize(("name", "argument"), arguments_of(float))
def test_numbers_are_neither_bools_nor_text(name: str, argument: str) -> None:
    right = CALLS[name].arguments[argument]
    for wrong in (True, np.bool_(True), str(right), complex(right), torch.tensor([right]), [right]):
        with pytest.raises(TypeError, match=rf"{argument} must be .*, got"):
            run_with(name, argument, wrong)
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=rf"{argument} must be .*, got"):
            run_with(name, argument, wrong)
    for kind in (np.float32, np.float64, torch.tensor):
        run_with(name, argument, kind(right))


@pytest.mark.parametrize(("name", "argument"), arguments_of(bool))
def test_switches_are_true_or_false(name: str, argument: str) -> None:
    for wrong in (None, 0, 1, "off", torch.tensor(True)):
        with pytest.raises(TypeError, match=rf"{argument} must be True or False, got"):
            run_with(name, argument, wrong)
    run_with(name, argument, np.bool_(CALLS[name].arguments[argument]))


@pytest.mark.parametrize(("name", "argument"), arguments_of(str))
def test_choices_are_listed_where_one_is_unknown(name: str, argument: str) -> None:
    for wrong in (None, 0, "", CALLS[name].arguments[argument].upper(), ["auto"], torch.ones(2)):
        with pytest.raises((TypeError, ValueError), match=rf"{argument} must be .*, got"):
            run_with(name, argument, wrong)


WITH_IGNORED_ID = [name for name, argument in arguments_of(int) if argument == "ignore_index"]
NOTHING_IGNORED = {
    "connected_components",
    "instance_regions",
    "class_mix",
    "weighted_cross_entropy",
    "MeanIoU",
    "class_center_distance",
    "ClassCenterDistance",
}
NO_CLASSES_GIVEN = {"merge_pseudo_labels", "class_mix"}


@pytest.mark.parametrize("name", WITH_IGNORED_ID)
def test_the_ignored_id_means_the_same_everywhere(name: str) -> None:
    call = CALLS[name]
    maps = {key: value for key, value in call.arguments.items() if is_label_map(value)}
    negative = {key: torch.where(value == IGNORE, -1, value) for key, value in maps.items()}
    call.make()(**{**call.arguments, **negative, "ignore_index": -1})
    if name not in NO_CLASSES_GIVEN:
        with pytest.raises(ValueError, match=r"ignore_index must not be (a class id|one of classes).*, got 1"):
            run_with(name, "ignore_index", 1)
    all_of_a_class = {key: value.clamp(max=1) for key, value in maps.items()}
    nothing_ignored = {**call.arguments, **all_of_a_class, "ignore_index": None}
    if name in NOTHING_IGNORED:
        call.make()(**nothing_ignored)
    else:
        with pytest.raises(TypeError, match="ignore_index must be a whole number, got NoneType None"):
            call.make()(**nothing_ignored)


def is_label_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64


def test_every_public_name_is_called() -> None:
    assert {name.split(".")[0] for name in CALLS} | NOT_CALLED == set(si.__all__)
    assert set(PLOTS) == set(plotting.__all__)
