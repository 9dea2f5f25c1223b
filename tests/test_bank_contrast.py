"""Bank contrast loss: a slow oracle, values by hand, empty and partly filled banks, memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance.banks import MemoryBank
from tests import oracles
from tests.label_maps import IGNORE, blocks
from tests.oracles import Array
from tests.test_matching import LargestTensor

D = 3


def oracle(features: Tensor, labels: Tensor, banks: Sequence[MemoryBank], temperature: float, normalize: bool) -> float:
    """SePiCo's formula, pixel by pixel and row by row."""

    def unit(row: Array) -> Array:
        return row / np.linalg.norm(row) if normalize else row

    rows: dict[int, list[Array]] = {
        k: [unit(row.double().numpy()) for row in bank.rows(k)] for bank in banks for k in bank.classes
    }
    total = 0.0
    for image, given in zip(features.double().numpy(), labels.numpy(), strict=True):
        small, found = oracles.resize_nearest(given, *image.shape[1:]), []
        for i, j in np.ndindex(*small.shape):
            own = rows.get(int(small[i, j]), [])
            if not own:
                continue
            pixel = unit(image[:, i, j])
            others = [np.mean(theirs, 0) for k, theirs in rows.items() if k != small[i, j] and theirs]
            negative = sum(math.exp(pixel @ mean / temperature) for mean in others)
            positive = [math.exp(pixel @ row / temperature) for row in own]
            found.append(-np.mean([math.log(each / (each + negative)) for each in positive]))
        total += np.mean(found) if found else 0.0
    return total / len(features)


def filled() -> tuple[si.StuffBank, si.InstanceBank]:
    """Banks of one class that has wrapped around, one that is partly filled, and one without a row."""
    banks = si.StuffBank((2, 5, 9), D, 3), si.InstanceBank((7, 0, 8), D, 6)
    for bank in banks:
        bank.written.copy_(torch.tensor([bank.capacity + 1, 2, 0]))
        bank.features.copy_(torch.where(bank.filled[:, :, None], torch.randn_like(bank.features) + 1, 0))
    return banks


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [100.0, 0.3])
@pytest.mark.parametrize("which", ["both", "stuff", "instance"])
def test_value_equals_the_oracle(
    which: str, temperature: float, normalize: bool, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pixels of a bank are picked out, and where nothing is read; in blocks of one slot and in one."""
    if not read:
        monkeypatch.setattr("stuffinstance._checks.READ_ON", ())
    stuff, instance = filled()
    banks = {"both": (stuff, instance), "stuff": (stuff,), "instance": (instance,)}[which]
    features = torch.randn(3, D, 7, 5)
    labels = blocks(14, 11, (2, 5, 9, 7, 0, 8, 1, IGNORE), 3, 3, cell=2)
    labels[2] = 9  # a class without a row
    loss = si.BankContrastLoss(banks if len(banks) > 1 else banks[0], temperature, normalize=normalize)
    expected = oracle(features, labels, banks, temperature, normalize)
    assert expected > 0.1
    for elements in (1, 2**22):
        monkeypatch.setattr("stuffinstance.losses.bank_contrast._BLOCK_ELEMENTS", elements)
        assert loss(features, labels).item() == pytest.approx(expected, rel=1e-5)
        assert loss(features.double(), labels).item() == pytest.approx(expected, rel=1e-6)  # rows are float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_gradients_agree_where_nothing_is_read(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = si.BankContrastLoss(filled(), 0.3)
    features = torch.randn(2, D, 6, 6, dtype=torch.float64, requires_grad=True)
    labels = blocks(6, 6, (2, 5, 9, 7, 0, 1, IGNORE), 3, 2).to(dtype)
    (expected,) = torch.autograd.grad(loss(features, labels), features)
    monkeypatch.setattr("stuffinstance._checks.READ_ON", ())
    (found,) = torch.autograd.grad(loss(features, labels), features)
    assert expected.any()
    torch.testing.assert_close(found, expected)


def test_a_pixel_on_its_row_loses_less_than_one_on_another() -> None:
    bank = si.StuffBank((0, 1), 2, 3)
    bank.update(torch.tensor([[[[3.0, 0.0]], [[0.0, 5.0]]]]), torch.tensor([[[0, 1]]]))  # (3, 0) and (0, 5)
    loss = si.BankContrastLoss(bank, 0.5)
    for pixel, value in (((1.0, 0.0), math.log1p(math.exp(-2))), ((0.0, 4.0), math.log1p(math.exp(2)))):
        assert loss(torch.tensor(pixel).view(1, 2, 1, 1), torch.tensor([[[0]]])).item() == pytest.approx(value)


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("case", ["empty", "one class", "absent", "no classes"])
def test_nothing_to_contrast_is_an_exact_zero_with_a_gradient(
    case: str, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not read:
        monkeypatch.setattr("stuffinstance._checks.READ_ON", ())
    bank = si.InstanceBank(() if case == "no classes" else (3, 4), D, 4)
    if case != "empty":
        bank.update(torch.randn(1, D, 4, 4), torch.full((1, 4, 4), 3))
    features = torch.randn(2, D, 4, 4, requires_grad=True)
    value = si.BankContrastLoss(bank)(features, torch.full((2, 4, 4), 9 if case == "absent" else 3))
    assert value.item() == 0
    value.backward()
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("read", [True, False])
def test_no_tensor_of_pixels_by_classes_by_slots_is_built(read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not read:
        monkeypatch.setattr("stuffinstance._checks.READ_ON", ())
    pixels, classes, slots, dim = 16 * 16, 6, 50, 8
    monkeypatch.setattr("stuffinstance.losses.bank_contrast._BLOCK_ELEMENTS", pixels * classes)
    bank = si.StuffBank(range(classes), dim, slots)
    bank.features.normal_()
    bank.written.fill_(slots)
    features, labels = torch.randn(1, dim, 16, 16, requires_grad=True), torch.randint(0, classes, (1, 16, 16))
    with LargestTensor() as largest:
        si.BankContrastLoss(bank)(features, labels).backward()
    assert largest.numbers <= pixels * max(slots, dim)


def test_banks_that_do_not_fit_each_other_are_an_error() -> None:
    stuff, instance = filled()
    for wrong in ((), (stuff, stuff), (stuff, si.InstanceBank((1,), D + 1))):
        with pytest.raises(ValueError, match="bank must be one bank, or several of one feature_dim"):
            si.BankContrastLoss(wrong)
    for kind in (None, stuff.features, [instance, 3]):
        with pytest.raises(TypeError, match="bank must be a StuffBank, an InstanceBank, or a sequence"):
            si.BankContrastLoss(kind)
