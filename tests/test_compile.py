"""torch.compile(fullgraph=True): the same numbers and gradients as without, no graph break, and sizes that vary."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from tests.label_maps import IGNORE, blocks
from tests.test_adaptation import batch, make

OLD = not hasattr(torch.compiler, "set_stance")  # before torch 2.6
IDS = (0, 1, 3, 4, IGNORE)


@pytest.fixture(autouse=True)
def forget_compiled_code() -> Iterator[None]:
    torch.compiler.reset()
    torch.use_deterministic_algorithms(False)  # the compiler's own buffers need no poison
    yield
    torch.compiler.reset()


def compiled(function: Callable[..., Tensor], backend: str = "aot_eager") -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, backend=backend)  # type: ignore[no-any-return]


def check_same(function: Callable[..., Tensor], *inputs: Tensor, backend: str = "aot_eager") -> None:
    features = inputs[0].clone().requires_grad_()
    expected = function(features, *inputs[1:])
    slope = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, features, slope)
    actual = compiled(function, backend)(features, *inputs[1:])
    (gradient,) = torch.autograd.grad(actual, features, slope)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def warm(preset: str) -> si.StuffInstanceMatching:
    sim = make(preset, classifier=torch.nn.Linear(6, 5) if preset == "code" else None)
    for seed in range(8):
        sim.update(*batch(seed))
    if preset == "code":
        sim.stuff_bank.written += 3  # past the warm-up, whatever the classifier let through
        sim.instance_bank.written += 7
    return sim


def test_region_mean() -> None:
    regions = torch.randint(5, (2, 7, 9))
    check_same(lambda f, r: si.region_mean(f, r, 6), torch.randn(2, 3, 7, 9), regions)


def test_region_mean_of_instances() -> None:
    def pooled(features: Tensor, labels: Tensor) -> Tensor:
        return si.region_mean(features, si.instance_regions(labels, (1, 4), 3))

    check_same(pooled, torch.randn(2, 3, 7, 9), blocks(7, 9, IDS, 1, 2))


@pytest.mark.parametrize("kind", ["stuff", "instance"])
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_losses(preset: str, kind: str) -> None:
    sim = warm(preset)
    loss = sim.stuff_loss if kind == "stuff" else sim.instance_loss
    check_same(loss, torch.randn(2, 6, 7, 9), blocks(14, 18, IDS, 2, 2))


def test_facade() -> None:
    sim = warm("paper")
    features, labels, logits = batch(50)
    check_same(lambda f, z, p: torch.stack(sim(f, z, p)), features, logits, labels)


def test_update() -> None:
    sim, plain = warm("paper"), warm("paper")
    torch.compile(sim.update, fullgraph=True, backend="aot_eager")(*batch(51))
    plain.update(*batch(51))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(sim.state_dict()[name], value)


@pytest.mark.parametrize("preset", ["code", "paper"])
def test_update_with_a_classifier(preset: str) -> None:
    head = torch.nn.Linear(6, 5)
    sim, plain = make(preset, classifier=head), make(preset, classifier=head)
    torch.compile(sim.update, fullgraph=True, backend="aot_eager")(*batch(51))
    plain.update(*batch(51))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(sim.state_dict()[name], value)


@pytest.mark.skipif(OLD, reason="torch is too old to forbid another compilation")
def test_another_bank_content_needs_no_other_code() -> None:
    sim = warm("paper")
    loss = compiled(sim.stuff_loss)
    features, labels = torch.randn(2, 6, 7, 9), blocks(7, 9, IDS, 3, 2)
    first = loss(features, labels)
    sim.update(*batch(52))
    with torch.compiler.set_stance("fail_on_recompile"):
        second = loss(features, labels)
    torch.testing.assert_close(second, sim.stuff_loss(features, labels))
    assert first != second


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own use of torch.jit
def test_region_mean_through_the_whole_compiler() -> None:
    regions = torch.randint(5, (2, 7, 9))
    check_same(lambda f, r: si.region_mean(f, r, 6), torch.randn(2, 3, 7, 9), regions, backend="inductor")


class Batch(NamedTuple):
    """Inputs of one size: RGB images, features, logits and their softmax, and labels; 3, 6 and 5 channels."""

    images: Tensor
    features: Tensor
    logits: Tensor
    probabilities: Tensor
    labels: Tensor


def drawn(batch_size: int, height: int, width: int) -> Batch:
    images, features, logits = (torch.rand(batch_size, channels, height, width) for channels in (3, 6, 5))
    return Batch(images, features, logits, logits.softmax(1), torch.randint(5, (batch_size, height, width)))


HALVES = torch.full((5,), 0.5)
# What is made once, and how it is called on each batch: every public function and module that takes maps.
VARYING: dict[str, tuple[Callable[[], Any], Callable[[Any, Batch], Any]]] = {
    "connected_components": (lambda: None, lambda _, b: si.connected_components(b.labels)),
    "instance_regions": (lambda: None, lambda _, b: si.instance_regions(b.labels, (1, 4), 3)),
    "stuff_regions": (lambda: None, lambda _, b: si.stuff_regions(b.labels, (0, 3))),
    "region_mean": (lambda: None, lambda _, b: si.region_mean(b.features, b.labels, 5)),
    "region_mean of instances": (
        lambda: None,
        lambda _, b: si.region_mean(b.features, si.instance_regions(b.labels, (1, 4), 3)),
    ),
    "correct_labels": (lambda: None, lambda _, b: si.correct_labels(b.labels, b.logits)),
    "merge_pseudo_labels": (lambda: None, lambda _, b: si.merge_pseudo_labels(b.labels, b.labels)),
    "resize_labels": (
        lambda: None,
        lambda _, b: si.resize_labels(b.labels, (b.labels.shape[1] // 2, b.labels.shape[2] * 2)),
    ),
    "class_center_distance": (lambda: None, lambda _, b: si.class_center_distance(b.features, b.labels, 5)),
    "ClassCenterDistance": (lambda: si.ClassCenterDistance(5, 6), lambda made, b: made.update(b.features, b.labels)),
    "MeanIoU of logits": (lambda: si.MeanIoU(5), lambda made, b: made.update(b.logits, b.labels)),
    "MeanIoU of labels": (lambda: si.MeanIoU(5), lambda made, b: made.update(b.labels, b.labels)),
    "PredictionEntropy": (lambda: si.PredictionEntropy(5), lambda made, b: made.update(b.probabilities)),
    "SoftNeighborhoodDensity": (
        lambda: si.SoftNeighborhoodDensity(sample=20),
        lambda made, b: made.update(b.probabilities),
    ),
    "EntropyLoss": (si.EntropyLoss, lambda made, b: made(b.logits)),
    "MaxSquareLoss": (si.MaxSquareLoss, lambda made, b: made(b.logits)),
    "entropy_map": (lambda: None, lambda _, b: si.entropy_map(b.probabilities)),
    "OutputAdversarialLoss": (
        lambda: si.OutputAdversarialLoss(si.OutputDiscriminator(5, width=4)),
        lambda made, b: made.generator_loss(b.logits.repeat(1, 1, 8, 8)),
    ),
    "FineGrainedAdversarialLoss": (
        lambda: si.FineGrainedAdversarialLoss(si.FineGrainedDiscriminator(6, 5, width=4)),
        lambda made, b: made.generator_loss(b.features, b.logits),
    ),
    "ClassBalancedThreshold.update": (
        lambda: si.ClassBalancedThreshold(5),
        lambda made, b: made.update(b.probabilities),
    ),
    "ClassBalancedThreshold.pseudo_labels": (
        lambda: si.ClassBalancedThreshold(5),
        lambda made, b: made.pseudo_labels(b.probabilities, HALVES),
    ),
    "CBSTThreshold.update": (lambda: si.CBSTThreshold(5), lambda made, b: made.update(b.probabilities)),
    "CBSTThreshold.pseudo_labels": (
        lambda: si.CBSTThreshold(5),
        lambda made, b: made.pseudo_labels(b.probabilities, HALVES),
    ),
    "IASTThreshold.update": (lambda: si.IASTThreshold(5), lambda made, b: made.update(b.probabilities)),
    "SymmetricConsistency": (
        lambda: si.SymmetricConsistency(si.ClassBalancedThreshold(5)),
        lambda made, b: made(b.probabilities, b.probabilities.flip(1)),
    ),
    "SymmetricConsistency.update": (
        lambda: si.SymmetricConsistency(si.ClassBalancedThreshold(5)),
        lambda made, b: made.update(b.probabilities, b.probabilities.flip(1)),
    ),
    "soft_labels": (lambda: None, lambda _, b: si.soft_labels(b.probabilities, HALVES)),
    "soft_cross_entropy": (
        lambda: None,
        lambda _, b: si.soft_cross_entropy(b.logits, b.probabilities, b.labels > 1),
    ),
    "mrkld_regularizer": (lambda: None, lambda _, b: si.mrkld_regularizer(b.logits, b.labels > 1)),
    "lab_color_transfer": (lambda: None, lambda _, b: si.lab_color_transfer(b.images, b.images / 2)),
    "fourier_amplitude_transfer": (
        lambda: None,
        lambda _, b: si.fourier_amplitude_transfer(b.images, b.images / 2, 0.2),
    ),
    "random_block_mask": (lambda: None, lambda _, b: si.random_block_mask(b.images, block=3)),
    "random_block_mask of a color": (
        lambda: None,
        lambda _, b: si.random_block_mask(b.images, 2, fill=(0.4, 0.5, 0.6)),
    ),
    "class_mix": (
        lambda: None,
        lambda _, b: si.class_mix(b.images, b.labels, b.images + 1, b.labels.flip(1), num_classes=5),
    ),
    "confident_fraction": (lambda: None, lambda _, b: si.confident_fraction(b.probabilities, 0.3)),
    "weighted_cross_entropy": (
        lambda: None,
        lambda _, b: si.weighted_cross_entropy(b.logits, b.labels, b.images[:, 0]),
    ),
    "CategoryAnchors and AnchorDistanceLoss": (
        lambda: si.AnchorDistanceLoss(si.CategoryAnchors(5, 6)),
        lambda made, b: (made.anchors.update(b.features, b.labels), made(b.features, b.labels))[1],
    ),
    "StuffInstanceMatching.update": (
        lambda: warm("paper"),
        lambda made, b: made.update(b.features, b.labels, b.logits),
    ),
    "StuffInstanceMatching": (lambda: warm("paper"), lambda made, b: made(b.features, b.logits, b.labels)),
    "StuffMatchingLoss": (lambda: warm("paper").stuff_loss, lambda made, b: made(b.features, b.labels)),
    "InstanceMatchingLoss": (lambda: warm("paper").instance_loss, lambda made, b: made(b.features, b.labels)),
    "stuff_matching_loss instance_matching_loss": (
        lambda: warm("paper"),
        lambda made, b: (
            si.stuff_matching_loss(b.features, b.labels, made.stuff_bank)
            + si.instance_matching_loss(b.features, b.labels, made.instance_bank, distance="l2")
        ),
    ),
    "anchor_distance_loss": (
        lambda: si.CategoryAnchors(5, 6),
        lambda made, b: (
            made.update(b.features, b.labels),
            si.anchor_distance_loss(b.features, b.labels, made),
        )[1],
    ),
}


@pytest.mark.parametrize("name", VARYING)
def test_sizes_vary_in_one_compiled_function(name: str) -> None:
    if OLD and name == "fourier_amplitude_transfer":
        pytest.skip("this torch compiles no Fourier transform of a size that varies")
    check_sizes(name, dynamic=None if OLD else True)  # old ones cannot take the logarithm of a K that varies


@pytest.mark.parametrize("name", ["random_block_mask", "class_mix", "SoftNeighborhoodDensity"])
def test_a_second_size_with_the_default_options(name: str) -> None:
    check_sizes(name, dynamic=None)


def check_sizes(name: str, dynamic: bool | None) -> None:
    make, call = VARYING[name]
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(make())
    plain, other = made
    run = torch.compile(lambda *maps: call(other, Batch(*maps)), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((2, 6, 8), (3, 9, 7), (4, 5, 11)):
        maps = drawn(*size)
        with torch.random.fork_rng():
            expected = call(plain, maps)
        torch.testing.assert_close(run(*maps), expected)
        if isinstance(plain, nn.Module):
            torch.testing.assert_close(other.state_dict(), plain.state_dict())


def test_every_public_function_that_takes_maps_is_compiled() -> None:
    """A new one needs a line in the table, or in this list with the reason for which it is not compiled."""
    elsewhere = {
        "IoU", "LabelSpace", "MatchingLosses", "ClassMixOutput", "Regions", "FusedPrediction",  # results and settings
        "PseudoLabelThreshold",  # abstract
        "StuffBank", "InstanceBank",  # in StuffInstanceMatching
        "OutputDiscriminator", "FineGrainedDiscriminator",  # in their losses
        "MeanTeacher",  # in test_mean_teacher.py
        "Matches", "head_classifier",  # a result, and in test_head_classifier.py
        "BackendUnavailableError",
    }  # fmt: skip
    public = {name for name in si.__all__ if callable(getattr(si, name))}
    compiled_ones = {word.split(".")[0] for name in VARYING for word in name.split()}
    assert public - elsewhere - compiled_ones == set()
