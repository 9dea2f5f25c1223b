"""The recorded training of the authors' code, and random histories of every awkward kind: oracle, facade and parts."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests import oracles
from tests.label_maps import GALLERY
from tests.random_cases import IGNORE, KINDS, Case, Step, random_case

Preset = Literal["code", "paper"]
pytestmark = pytest.mark.filterwarnings("ignore:.* have other proportions")  # the recorded labels are stretched


def head_of(case: Case) -> torch.nn.Linear:
    head = torch.nn.Linear(case.feature_dim, case.classes, bias=False)
    head.weight.data.copy_(torch.from_numpy(case.head))
    return head.requires_grad_(False)


def facade_of(case: Case, preset: Preset, *, filtered: bool = False, **options: object) -> si.StuffInstanceMatching:
    names = tuple(f"class {k}" for k in range(case.classes))
    space = si.LabelSpace(names=names, stuff=case.stuff, things=case.things, ignore_index=IGNORE)
    return si.StuffInstanceMatching(
        space,
        case.feature_dim,
        preset=preset,
        capacity=case.capacity,
        max_instances=case.max_instances,
        classifier=head_of(case) if filtered else None,
        **options,
    )


def oracle_of(case: Case, preset: Preset, *, filtered: bool = False) -> oracles.Sim:
    head = case.head.astype(np.float64) if filtered else None
    return oracles.Sim(case.stuff, case.things, case.capacity, case.max_instances, preset, head)


def source_of(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    arrays = (step.source_features, step.source_labels, step.source_logits)
    features, labels, logits = (torch.from_numpy(x) for x in arrays)
    return features, labels, logits


def target_of(step: Step) -> tuple[Tensor, Tensor, Tensor | None]:
    pseudo = None if step.pseudo_labels is None else torch.from_numpy(step.pseudo_labels)
    return torch.from_numpy(step.target_features), torch.from_numpy(step.target_logits), pseudo


def update_oracle(sim: oracles.Sim, step: Step) -> None:
    """The images of the batch one by one."""
    rows = zip(step.source_features.astype(np.float64), step.source_labels, step.source_logits, strict=True)
    for features, labels, logits in rows:
        sim.update(features, labels, logits.astype(np.float64))


def oracle_losses(sim: oracles.Sim, step: Step) -> tuple[float, np.ndarray, float, np.ndarray]:
    """Means over the images, and the gradients of those means."""
    batch = len(step.target_features)
    singles = [
        sim.losses(
            step.target_features[b].astype(np.float64),
            step.target_logits[b].astype(np.float64),
            None if step.pseudo_labels is None else step.pseudo_labels[b],
        )
        for b in range(batch)
    ]
    stuff, instance = (sum(single[i] for single in singles) / batch for i in (0, 2))
    slopes = [np.stack([single[i] for single in singles]) / batch for i in (1, 3)]
    return stuff, slopes[0], instance, slopes[1]


def assert_bank_equals(bank: si.StuffBank | si.InstanceBank, expected: oracles.ListBank) -> None:
    """Counters exactly, rows in the same slots, and the mask of filled slots."""
    assert bank.written.tolist() == list(expected.written.values())
    for position, slots in enumerate(expected.slots.values()):
        assert bank.filled[position].tolist() == [row is not None for row in slots]
        for slot, row in enumerate(slots):
            if row is not None:
                actual = bank.features[position, slot].double().numpy()
                np.testing.assert_allclose(actual, row, rtol=1e-5, atol=1e-6)


def test_sim_oracle_repeats_the_recorded_training(golden_sim: dict[str, np.ndarray]) -> None:
    recorded = golden_sim
    sim = oracles.Sim(
        tuple(recorded["stuff_classes"].tolist()),
        tuple(recorded["thing_classes"].tolist()),
        int(recorded["capacity"]),
        int(recorded["max_instances"]),
        "code",
        recorded["head_weight"].astype(np.float64),
    )
    for t in range(len(recorded["loss_stuff"])):
        source, target = (recorded[f"{side}_features"][t].astype(np.float64) for side in ("source", "target"))
        sim.update(source, recorded["source_labels"][t].astype(np.int64), oracle_logits(sim, source))
        assert list(sim.stuff_bank.written.values()) == recorded["stuff_count"][t].tolist()
        assert list(sim.instance_bank.written.values()) == recorded["instance_count"][t].tolist()
        stuff, stuff_slope, instance, instance_slope = sim.losses(target, oracle_logits(sim, target))
        assert stuff == pytest.approx(recorded["loss_stuff"][t], rel=1e-6)
        assert instance == pytest.approx(recorded["loss_instance"][t], rel=1e-6)
        np.testing.assert_allclose(stuff_slope, recorded["grad_stuff"][t], atol=1e-7)
        np.testing.assert_allclose(instance_slope, recorded["grad_instance"][t], atol=1e-7)


def oracle_logits(sim: oracles.Sim, features: np.ndarray) -> np.ndarray:
    assert sim.head is not None
    return np.einsum("kd,dhw->khw", sim.head, features)


def test_threshold_oracle_repeats_the_recorded_ones(golden_baselines: dict[str, np.ndarray]) -> None:
    probabilities = [oracles.softmax(x.astype(np.float64)) for x in golden_baselines["pseudo_logits"]]
    thresholds = oracles.class_thresholds(probabilities)
    np.testing.assert_allclose(thresholds, golden_baselines["pseudo_thresholds"], atol=2e-7)


def test_iou_oracle_repeats_the_recorded_one(golden_baselines: dict[str, np.ndarray]) -> None:
    pairs = zip(golden_baselines["miou_predictions"], golden_baselines["miou_labels"], strict=True)
    matrix = sum(oracles.confusion(p, ground_truth, 19) for p, ground_truth in pairs)
    np.testing.assert_array_equal(matrix, golden_baselines["miou_confusion"])
    np.testing.assert_allclose(oracles.iou(matrix), golden_baselines["miou_per_class"])


@pytest.mark.parametrize(("name", "connectivity", "count"), [
    ("snake", 4, 1),
    ("spiral", 4, 2),
    ("comb-down", 4, 1),
    ("checkerboard", 8, 2),
    ("checkerboard", 4, 12 * 17),
    ("v", 8, 1),
    ("v", 4, 21),
    ("rings", 4, 12),
    ("all-ignored", 8, 0),
])  # fmt: skip
def test_flood_fill_counts_what_was_drawn(name: str, connectivity: int, count: int) -> None:
    assert oracles.components(GALLERY[name][0].numpy(), connectivity).max() == count


@pytest.mark.parametrize("kind", ["l1_mean", "l1_squared", "l2", "cosine"])
def test_slopes_of_distances_are_their_finite_differences(kind: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5))
    _, slope = oracles.distance(kind, a, b)
    for d, unit in enumerate(np.eye(5) * 1e-6):
        rise = oracles.distance(kind, a + unit, b)[0] - oracles.distance(kind, a - unit, b)[0]
        assert slope[d] == pytest.approx(rise / 2e-6, rel=1e-5)


Recording = dict[str, np.ndarray]


def linear_head(recorded: Recording) -> torch.nn.Linear:
    weight = torch.from_numpy(recorded["head_weight"])
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data.copy_(weight)
    return head.requires_grad_(False)


def logits_of(head: torch.nn.Linear, features: Tensor) -> Tensor:
    return torch.einsum("kd,bdhw->bkhw", head.weight, features)


def check_close(actual: Tensor, expected: np.ndarray) -> None:
    """Within 1e-5 relative: each number, or for a gradient the largest deviation of its largest entry."""
    wanted = torch.from_numpy(np.asarray(expected)).double()
    bound = 1e-5 * float(wanted.abs().max())
    assert float((actual.double() - wanted).abs().max()) <= bound


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_facade_repeats_all_iterations(golden_sim: Recording, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    head = linear_head(golden_sim).to(device)
    capacity, most = int(golden_sim["capacity"]), int(golden_sim["max_instances"])
    sim = si.StuffInstanceMatching(
        si.CITYSCAPES, head.in_features, capacity=capacity, max_instances=most, classifier=head
    ).to(device)
    for t in range(len(golden_sim["loss_stuff"])):
        source = torch.from_numpy(golden_sim["source_features"][t])[None].to(device)
        target = torch.from_numpy(golden_sim["target_features"][t])[None].to(device).requires_grad_()
        labels = torch.from_numpy(golden_sim["source_labels"][t])[None].to(device)
        sim.update(source, labels, logits_of(head, source))
        assert sim.stuff_bank.written.tolist() == golden_sim["stuff_count"][t].tolist()
        assert sim.instance_bank.written.tolist() == golden_sim["instance_count"][t].tolist()
        losses = sim(target, logits_of(head, target))
        for kind, loss in zip(("stuff", "instance"), losses, strict=True):
            check_close(loss.detach().cpu(), golden_sim[f"loss_{kind}"][t])
            (gradient,) = torch.autograd.grad(loss, target, retain_graph=True)
            check_close(gradient[0].cpu(), golden_sim[f"grad_{kind}"][t])
    check_close(sim.stuff_bank.features.cpu(), golden_sim["stuff_bank"])
    check_close(sim.instance_bank.features.cpu(), golden_sim["instance_bank"])


def test_parts_repeat_all_iterations_in_batches(golden_sim: Recording) -> None:
    """Banks fed five images at a time, and then losses over five: sums of the recorded numbers."""
    head = linear_head(golden_sim)
    space, dim = si.CITYSCAPES, head.in_features
    capacity, most = int(golden_sim["capacity"]), int(golden_sim["max_instances"])
    stuff_bank = si.StuffBank(space.stuff, dim, capacity)
    instance_bank = si.InstanceBank(space.things, dim, capacity * most, most)
    for t in range(0, 40, 5):
        source = torch.from_numpy(golden_sim["source_features"][t : t + 5])
        labels = torch.from_numpy(golden_sim["source_labels"][t : t + 5])
        correct = si.correct_labels(labels, logits_of(head, source))
        stuff_bank.update(source, correct, head)
        instance_bank.update(source, correct, head)
        assert stuff_bank.written.tolist() == golden_sim["stuff_count"][t + 4].tolist()
        assert instance_bank.written.tolist() == golden_sim["instance_count"][t + 4].tolist()
    check_close(stuff_bank.features, golden_sim["stuff_bank"])
    check_close(instance_bank.features, golden_sim["instance_bank"])
    last = torch.from_numpy(golden_sim["target_features"][39:40])
    predicted = logits_of(head, last).argmax(1)
    stuff = si.StuffMatchingLoss(stuff_bank, distance="l1_mean", require_full_bank=True, classifier=head)
    instance = si.InstanceMatchingLoss(instance_bank, distance="l1_mean", require_full_bank=True)
    check_close(stuff(last, predicted), golden_sim["loss_stuff"][39])
    check_close(instance(last, predicted), golden_sim["loss_instance"][39])


def follow(case: Case, preset: Preset, *, filtered: bool) -> tuple[int, float]:
    """Run both over the case; return rows written and the sum of losses, to see that something happened."""
    sim = facade_of(case, preset, filtered=filtered)
    oracle = oracle_of(case, preset, filtered=filtered)
    total = check_losses(sim, oracle, case.steps[0])  # an empty bank
    for step in case.steps:
        sim.update(*source_of(step))
        update_oracle(oracle, step)
        assert_bank_equals(sim.stuff_bank, oracle.stuff_bank)
        assert_bank_equals(sim.instance_bank, oracle.instance_bank)
        total += check_losses(sim, oracle, step)
    return int(sim.stuff_bank.written.sum() + sim.instance_bank.written.sum()), total


def check_losses(sim, oracle, step: Step) -> float:
    features, logits, pseudo = target_of(step)
    features.requires_grad_()
    stuff, stuff_slope, instance, instance_slope = oracle_losses(oracle, step)
    losses = sim(features, logits, pseudo)
    for loss, value, slope in zip(losses, (stuff, instance), (stuff_slope, instance_slope), strict=True):
        assert loss.ndim == 0
        assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
        if value == 0:
            assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
        scale = max(float(np.abs(slope).max()), 1e-3)
        np.testing.assert_allclose(gradient.numpy() / scale, slope / scale, atol=2e-5)
    return stuff + instance


@pytest.mark.parametrize("seed", range(22))
@pytest.mark.parametrize("kind", KINDS)
def test_paper_preset(kind: str, seed: int) -> None:
    written, total = follow(random_case(kind, seed), "paper", filtered=False)
    assert (written > 0) == (total > 0) or kind in ("absent-classes", "giant-region", "one-pixel")
    if kind == "all-ignored":
        assert written == 0


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("seed", range(100, 106))
@pytest.mark.parametrize("kind", KINDS)
def test_code_preset(kind: str, seed: int, filtered: bool) -> None:
    follow(random_case(kind, seed), "code", filtered=filtered)


def test_the_cases_are_what_they_are_called() -> None:
    """A bank wraps around, one update brings more than fits, and the filter turns some rows away."""
    wrapped = facade_of(case := random_case("wrap-around", 0), "paper")
    for step in case.steps:
        wrapped.update(*source_of(step))
    assert (wrapped.stuff_bank.written > wrapped.stuff_bank.capacity).any()
    flooded = facade_of(case := random_case("larger-than-bank", 0), "paper")
    flooded.update(*source_of(case.steps[0]))
    assert (flooded.stuff_bank.written > flooded.stuff_bank.capacity).any()
    counts = []
    for filtered in (False, True):
        sim = facade_of(case := random_case("ordinary", 3), "code", filtered=filtered)
        for step in case.steps:
            sim.update(*source_of(step))
        counts.append(int(sim.instance_bank.written.sum() + sim.stuff_bank.written.sum()))
    assert 0 < counts[1] < counts[0]
