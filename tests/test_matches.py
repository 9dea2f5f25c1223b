"""Which bank row each region is matched to: the pairs whose distances the losses sum."""

from __future__ import annotations

import pytest
import torch

import stuffinstance as si
from tests.label_maps import IGNORE, blocks
from tests.test_matching_losses import DISTANCES, KINDS, pair


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
