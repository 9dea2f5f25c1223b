"""Banks: rings that wrap, batches larger than they are, filters, state, and rows that must not enter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from tests import oracles
from tests.label_maps import IGNORE, blocks
from tests.test_sim_oracle import assert_bank_equals

IDS = (0, 2, 5, 13, IGNORE)
Bank = si.StuffBank | si.InstanceBank


def stream(images: int, seed: int, dim: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, dim, 7, 9, generator=generator), blocks(7, 9, IDS, seed, images, cell=2)


def fill_oracle(bank: oracles.ListBank, features: Tensor, labels: Tensor, most: int | None) -> None:
    for image, ground_truth in zip(features.double().numpy(), labels.numpy(), strict=True):
        if most is None:
            for k in bank.classes:
                if (ground_truth == k).any():
                    bank.append(k, oracles.mean_of(image, ground_truth == k))
            continue
        for k, found in zip(bank.classes, oracles.largest_regions(ground_truth, bank.classes, most), strict=True):
            for region in found:
                bank.append(k, oracles.mean_of(image, region.mask))


def make_bank(kind: str, capacity: int, classes: tuple[int, ...] = (13, 2, 0), dim: int = 4) -> Bank:
    if kind == "stuff":
        return si.StuffBank(classes, dim, capacity)
    return si.InstanceBank(classes, dim, capacity, max_instances=3)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("capacity", [1, 2, 5, 100])
@pytest.mark.parametrize("kind", ["stuff", "instance"])
def test_rows_go_round_the_ring(kind: str, capacity: int, batch: int) -> None:
    bank = make_bank(kind, capacity)
    expected = oracles.ListBank(bank.classes, capacity)
    features, labels = stream(16, capacity)
    for first in range(0, 16, batch):
        part = slice(first, first + batch)
        bank.update(features[part].clone().requires_grad_(), labels[part])
        fill_oracle(expected, features[part], labels[part], None if kind == "stuff" else 3)
        assert_bank_equals(bank, expected)
    assert max(expected.written.values()) > 5
    assert not bank.features.requires_grad


def test_nothing_to_write_changes_nothing() -> None:
    for kind in ("stuff", "instance"):
        bank = make_bank(kind, 3)
        bank.update(torch.randn(2, 4, 5, 5), torch.full((2, 5, 5), IGNORE))
        bank.update(torch.randn(2, 4, 5, 5), torch.full((2, 5, 5), 7))
        bank.update(torch.randn(0, 4, 5, 5), torch.zeros(0, 5, 5, dtype=torch.int64))
        assert bank.written.tolist() == [0, 0, 0]
        assert not bank.filled.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["stuff", "instance"])
def test_rows_that_are_not_finite_stay_out_and_take_no_slot(kind: str, value: float) -> None:
    features, labels = torch.randn(1, 4, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[:, 2:] = 2
    features[0, 1, 0, 0] = value
    bank = make_bank(kind, 3, classes=(0, 2))
    bank.update(features, labels)
    assert bank.written.tolist() == [0, 1]
    assert torch.isfinite(bank.features).all()
    torch.testing.assert_close(bank.features[1, 0], features[0, :, 2:].mean((1, 2)))


@pytest.mark.parametrize("strict", [
    si.StuffBank((0,), 4, 3, validate_args=True), si.InstanceBank((0,), 4, 3, validate_args=True),
    si.CategoryAnchors(1, 4, min_pixels=1, validate_args=True), si.ClassDistributions(1, 4, validate_args=True),
])  # fmt: skip
def test_validation_raises_for_features_that_are_not_finite(strict: nn.Module) -> None:
    features = torch.randn(1, 4, 4, 4)
    features[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"features must be finite.*1 NaN"):
        strict.update(features, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert not any(buffer.any() for buffer in strict.buffers())


def test_a_row_enters_only_where_the_classifier_agrees() -> None:
    features = torch.tensor([[[[1.0, 1.0, -1.0, 9.0]]]])
    labels = torch.tensor([[[0, 2, 2, 5]]])

    def classifier(rows: Tensor) -> Tensor:  # says 2 for positive rows, 0 for negative ones
        return torch.stack([-rows[:, 0], torch.full_like(rows[:, 0], -99), rows[:, 0]], 1)

    bank = si.StuffBank((0, 2), 1, 4)
    bank.update(features, labels, classifier)
    assert bank.written.tolist() == [0, 0]  # the mean of class 2 is 0, a tie that goes to class 0
    things = si.InstanceBank((2,), 1, 4, max_instances=1)
    things.update(torch.tensor([[[[-1.0, -1.0, 0.0, 1.0]]]]), torch.tensor([[[2, 2, 5, 2]]]), classifier)
    assert things.written.tolist() == [0]  # the rejected region used up the only place
    roomy = si.InstanceBank((2,), 1, 4, max_instances=2)
    roomy.update(torch.tensor([[[[-1.0, -1.0, 0.0, 1.0]]]]), torch.tensor([[[2, 2, 5, 2]]]), classifier)
    assert roomy.written.tolist() == [1]
    assert roomy.features[0, 0].tolist() == [1.0]


def test_connectivity_four_parts_what_touches_at_corners() -> None:
    labels = torch.tensor([[[5, 0], [0, 5]]])
    counts = []
    for connectivity in (8, 4):
        bank = si.InstanceBank((5,), 1, 4, connectivity=connectivity)
        bank.update(torch.randn(1, 1, 2, 2), labels)
        counts.append(bank.written.item())
    assert counts == [1, 2]


FEATURES, LABELS = torch.randn(1, 4, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64)


@pytest.mark.parametrize("kind", ["stuff", "instance"])
@pytest.mark.parametrize("images", [0, 1, 2, 3, 5, 6, 7])
def test_rows_of_a_class_are_the_filled_ones_newest_last(kind: str, images: int) -> None:
    make = si.StuffBank if kind == "stuff" else si.InstanceBank
    bank = make((7, 2), 1, 3, names=("sky", "road"))
    for value in range(images):
        bank.update(torch.full((1, 1, 1, 1), float(value)), torch.tensor([[[2]]]))
    expected = [[float(value)] for value in range(images)][-3:]
    assert bank.rows(2).tolist() == bank.rows("road").tolist() == expected
    assert bank.rows("sky").shape == (0, 1)
    assert len(bank) == len(expected)
    assert bank, "an empty bank is a bank"
    assert f"rows={{sky: 0, road: {len(expected)}}}" in repr(bank)
    bank.rows(2).zero_()
    assert bank.rows(2).tolist() == expected


def test_repr_of_a_bank_reads_nothing_from_a_device() -> None:
    assert "rows={7: 0}" in repr(si.StuffBank((7,), 1))
    assert "rows=on meta" in repr(si.StuffBank((7,), 1).to("meta"))


@pytest.mark.parametrize(("dtype", "value", "rows"), [(torch.float64, 1e300, 0), (torch.float32, 1e5, 1)])
def test_what_overflows_in_the_banks_own_precision_stays_out(dtype: torch.dtype, value: float, rows: int) -> None:
    bank = si.StuffBank((0,), 1, 2).half()  # its rows stay float32, where 1e5 is a number
    anchors = si.CategoryAnchors(1, 1, min_pixels=1)
    for held in (bank, anchors):
        held.update(torch.full((1, 1, 2, 2), value, dtype=dtype), torch.zeros(1, 2, 2, dtype=torch.int64))
        assert all(buffer.isfinite().all() for buffer in held.buffers())
    assert bank.written.tolist() == anchors.count.tolist() == [rows]
