"""Stuff and instance losses: oracles, values by hand, warm-up, and which bank row each region is matched to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stuffinstance as si
from tests import oracles
from tests.label_maps import IGNORE, blocks

DISTANCES = ("l1_mean", "l1_squared", "l2", "cosine")
KINDS = ("stuff", "instance")


def pair(kind: str, distance: object = "l1_mean", dim: int = 3, require_full_bank: bool = False, capacity: int = 6):
    """A filled bank, its loss, and the oracle's bank with the same rows."""
    classes = (2, 5, 0)
    generator = torch.Generator().manual_seed(11)
    if kind == "stuff":
        bank = si.StuffBank(classes, dim, capacity)
        loss = si.StuffMatchingLoss(bank, distance=distance, require_full_bank=require_full_bank)
    else:
        bank = si.InstanceBank(classes, dim, capacity, max_instances=3)
        loss = si.InstanceMatchingLoss(bank, distance=distance, require_full_bank=require_full_bank)
    name = distance if isinstance(distance, str) else "l1_mean"
    sim = oracles.Sim(classes, classes, capacity, 3, "paper", kind=name)
    sim.require_full_bank = require_full_bank
    sim.instance_bank.capacity = capacity
    sim.instance_bank.slots = {k: [None] * capacity for k in classes}
    features = torch.randn(4, dim, 6, 6, generator=generator, dtype=torch.float64)
    labels = blocks(6, 6, (2, 5, 0, IGNORE), 12, 4, cell=2)
    bank.update(features, labels)
    for image, ground_truth in zip(features.numpy(), labels.numpy(), strict=True):
        everywhere = np.eye(6)[np.where(ground_truth == IGNORE, 0, ground_truth)].transpose(2, 0, 1)
        sim.update(image, ground_truth, everywhere)
    for plain in (sim.stuff_bank, sim.instance_bank):  # rows are kept in single precision
        for k, rows in plain.slots.items():
            plain.slots[k] = [row if row is None else row.astype(np.float32).astype(np.float64) for row in rows]
    return bank, loss, sim.stuff_loss if kind == "stuff" else sim.instance_loss


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_equal_the_oracle(kind: str, distance: str) -> None:
    _, loss, oracle = pair(kind, distance)
    features = torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    labels = blocks(7, 5, (2, 5, 0, 1, IGNORE), 3, 2, cell=2)
    expected = [oracle(f, y) for f, y in zip(features.detach().numpy(), labels.numpy(), strict=True)]
    value = loss(features, labels)
    assert value.item() == pytest.approx(sum(e[0] for e in expected) / 2, rel=1e-12)
    assert value.item() > 0
    (gradient,) = torch.autograd.grad(value, features)
    np.testing.assert_allclose(gradient.numpy(), np.stack([e[1] for e in expected]) / 2, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_callable_is_a_distance(kind: str) -> None:
    _, named, _ = pair(kind, "l1_mean")
    _, called, _ = pair(kind, lambda a, b: (a - b).abs().mean(-1))
    features, labels = torch.randn(2, 3, 6, 6), blocks(6, 6, (2, 5, 0), 5, 2)
    torch.testing.assert_close(called(features, labels), named(features, labels))


def test_values_by_hand() -> None:
    bank = si.StuffBank((0, 1), 2, 4)
    bank.update(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]]), torch.tensor([[[0, 0]]]))  # row (2, 5)
    target = torch.tensor([[[[4.0, 7.0]], [[4.0, 7.0]]]])  # class 0: (4, 4); class 1 has no partner
    labels = torch.tensor([[[0, 1]]])
    for distance, value in (("l1_mean", 1.5), ("l1_squared", 9.0), ("l2", 5**0.5)):
        assert si.StuffMatchingLoss(bank, distance=distance)(target, labels).item() == pytest.approx(value)
    things = si.InstanceBank((7,), 1, 4, max_instances=2)
    things.update(torch.tensor([[[[1.0, 0.0, 5.0]]]]), torch.tensor([[[7, 0, 7]]]))  # rows 1 and 5
    target = torch.tensor([[[[2.0, 2.0, 0.0, 9.0, 9.0, 9.0, 0.0, 3.0]]]])
    labels = torch.tensor([[[7, 7, 0, 7, 7, 7, 0, 7]]])  # 9 -> 5: 4; 2 -> 1: 1; the third is one too many
    assert si.InstanceMatchingLoss(things)(target, labels).item() == pytest.approx(2.5)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_waits_for_more_rows_than_slots(kind: str) -> None:
    classes = (5,)
    bank = si.StuffBank(classes, 2, 3) if kind == "stuff" else si.InstanceBank(classes, 2, 3)
    make = si.StuffMatchingLoss if kind == "stuff" else si.InstanceMatchingLoss
    patient, eager = make(bank, require_full_bank=True), make(bank, require_full_bank=False)
    target, labels = torch.randn(1, 2, 2, 2, requires_grad=True), torch.full((1, 2, 2), 5)
    for written in range(1, 6):
        bank.update(torch.randn(1, 2, 2, 2), labels)
        assert (patient(target, labels).item() > 0) == (written > 3)
        assert eager(target, labels).item() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_unwritten_slots_are_never_matched(kind: str) -> None:
    bank = si.StuffBank((5,), 2, 8) if kind == "stuff" else si.InstanceBank((5,), 2, 8)
    make = si.StuffMatchingLoss if kind == "stuff" else si.InstanceMatchingLoss
    labels = torch.full((1, 1, 1), 5)
    bank.update(torch.full((1, 2, 1, 1), 10.0), labels)
    loss = make(bank)(torch.zeros(1, 2, 1, 1), labels)
    assert loss.item() == 10


@pytest.mark.parametrize("case", ["all-ignored", "absent", "cold", "no-image"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_match_is_an_exact_zero_with_a_gradient(kind: str, case: str) -> None:
    bank, loss, _ = pair(kind)
    if case == "cold":
        bank.written.zero_()
    features = torch.randn(0 if case == "no-image" else 2, 3, 6, 6, requires_grad=True)
    ids = {"all-ignored": IGNORE, "absent": 7}.get(case, 5)
    value = loss(features, torch.full((features.shape[0], 6, 6), ids))
    assert value.ndim == 0
    assert value.item() == 0
    value.backward()
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_target_stuff_is_filtered_and_target_things_are_not() -> None:
    head = torch.nn.Linear(2, 8)
    head.weight.data.zero_()
    head.bias.data.zero_()
    head.bias.data[1] = 1  # says class 1 to everything
    labels = torch.full((1, 2, 2), 5)
    bank = si.StuffBank((5,), 2, 2)
    bank.update(torch.randn(1, 2, 2, 2), labels)
    features = torch.randn(1, 2, 2, 2, requires_grad=True)
    assert si.StuffMatchingLoss(bank)(features, labels).item() > 0
    filtered = si.StuffMatchingLoss(bank, classifier=head)(features, labels)
    assert filtered.item() == 0
    filtered.backward()
    assert head.weight.grad is None


@pytest.mark.parametrize("options", [{}, {"distance": "l2"}, {"require_full_bank": True}, {"classifier": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_function_is_the_module(kind: str, options: dict[str, object]) -> None:
    if "classifier" in options:
        if kind == "instance":
            return  # things are not filtered
        options = {"classifier": torch.nn.Linear(3, 6, dtype=torch.float64)}
    bank, _, _ = pair(kind, capacity=2)
    module, function = {
        "stuff": (si.StuffMatchingLoss, si.stuff_matching_loss),
        "instance": (si.InstanceMatchingLoss, si.instance_matching_loss),
    }[kind]
    features, labels = torch.randn(2, 3, 6, 6, dtype=torch.float64), blocks(6, 6, (2, 5, 0), 5, 2)
    features.requires_grad_()
    value = function(features, labels, bank, **options)
    assert torch.equal(value, module(bank, **options)(features, labels))
    if "classifier" not in options:
        assert value > 0
    other = si.StuffBank((1,), 3) if kind == "instance" else si.InstanceBank((1,), 3)
    with pytest.raises(TypeError, match=r"bank must be an? (Stuff|Instance)Bank, got (Stuff|Instance)Bank"):
        function(features, labels, other)


def test_slots_and_distances_by_hand() -> None:
    bank = si.InstanceBank((7, 3), 1, 4, max_instances=3)
    bank.update(torch.tensor([[[[1.0, 9.0, 4.0, 9.0, 8.0]]]]), torch.tensor([[[7, 0, 7, 0, 7]]]))  # rows 1, 4, 8
    matches = si.InstanceMatchingLoss(bank).matches(
        torch.tensor([[[[7.0, 7.0, 0.0, 2.0, 0.0, 5.0]]]]), torch.tensor([[[7, 7, 0, 7, 0, 3]]])
    )
    assert matches.used.tolist() == [[[True, True, False], [False, False, False]]]  # class 3 has no row yet
    assert matches.slot.tolist() == [[[2, 0, -1], [-1, -1, -1]]]
    assert matches.distance.tolist() == [[[1, 1, 0], [0, 0, 0]]]
    assert matches.regions.area[0, 0].tolist() == [2, 1, 0]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_pair_is_a_filled_row_of_its_class_and_no_other_row_is_nearer(kind: str, distance: str) -> None:
    bank, loss, _ = pair(kind, distance)
    features = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    matches = loss.matches(features, blocks(7, 5, (2, 5, 0, 1, IGNORE), 3, 2, cell=2))
    rows = si.region_mean(features, matches.regions).view(*matches.used.shape, 3)
    assert matches.used.any()
    for place in matches.used.nonzero().tolist():
        image, position, rank = place
        held = bank.features[position][bank.filled[position]].double()
        every = loss.distance.between(rows[image, position, rank], held)
        assert int(matches.slot[image, position, rank]) == int(every.argmin())
        assert float(matches.distance[image, position, rank]) == pytest.approx(float(every.min()), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_their_distances_make_the_loss_and_its_gradient(kind: str) -> None:
    _, loss, _ = pair(kind)
    features = torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    labels = blocks(7, 5, (2, 5, 0, IGNORE), 3, 2, cell=2)
    matches = loss.matches(features, labels)
    per_class = matches.distance.sum(2) / matches.regions.valid.sum(2).clamp(min=1)
    value = per_class.sum() / 2
    assert value.item() == pytest.approx(loss(features, labels).item(), rel=1e-12)
    expected, found = (torch.autograd.grad(v, features)[0] for v in (loss(features, labels), value))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_warms_up_is_not_matched(kind: str) -> None:
    bank, loss, _ = pair(kind, require_full_bank=True)
    bank.written.clamp_(max=bank.capacity)
    matches = loss.matches(torch.randn(1, 3, 4, 4, dtype=torch.float64), torch.full((1, 4, 4), 2))
    assert matches.regions.valid.any()
    assert not matches.used.any()
    assert (matches.slot == -1).all()
    assert (matches.distance == 0).all()


def test_stuff_that_the_classifier_rejects_is_not_matched() -> None:
    bank = si.StuffBank((0, 1), 2, 4)
    bank.update(torch.ones(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
    always_one = si.StuffMatchingLoss(bank, classifier=lambda rows: torch.tensor([[0.0, 1.0]]).expand(len(rows), 2))
    assert always_one.matches(torch.ones(1, 2, 1, 2), torch.tensor([[[0, 1]]])).used.tolist() == [[[False], [True]]]


def test_no_region_gives_no_pair() -> None:
    _, loss, _ = pair("instance")
    matches = loss.matches(torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.full((2, 4, 4), IGNORE))
    assert matches.used.shape == (2, 3, 3)
    assert not matches.used.any()
