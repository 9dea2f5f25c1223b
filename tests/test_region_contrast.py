"""Region contrast loss: SIM's loss where nothing repels, a slow oracle, values by hand, and which regions count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance.banks import MemoryBank
from tests import oracles
from tests.label_maps import IGNORE, blocks
from tests.random_cases import KINDS, random_case
from tests.test_bank_contrast import filled
from tests.test_matching import LargestTensor
from tests.test_sim_oracle import Recording, facade_of, linear_head, logits_of, source_of, target_of

D = 3


def regions_of(labels: oracles.Labels, bank: MemoryBank) -> list[list[np.ndarray[Any, Any]]]:
    """Masks per class: connected regions of an instance bank, all pixels of the class of a stuff bank."""
    if isinstance(bank, si.InstanceBank):
        found = oracles.largest_regions(labels, bank.classes, bank.max_instances)
        return [[region.mask for region in regions] for regions in found]
    return [[labels == k] if (labels == k).any() else [] for k in bank.classes]


def oracle(
    features: Tensor,
    labels: Tensor,
    loss: si.RegionContrastLoss,
    confidence: Tensor | None = None,
) -> float:
    """The formula, region by region and row by row."""
    banks = [loss.bank, *([] if loss.negatives is None else [loss.negatives])]
    rows = [(k, [row.double().numpy() for row in bank.rows(k)]) for bank in banks for k in bank.classes]
    tau, total = loss.temperature, 0.0
    for i, image in enumerate(features.double().numpy()):
        small = oracles.resize_nearest(labels[i].numpy(), *image.shape[1:])
        for k, masks in zip(loss.bank.classes, regions_of(small, loss.bank), strict=True):
            masks = [mask for mask in masks if mask.sum() >= loss.min_area]
            if confidence is not None:
                masks = [mask for mask in masks if confidence[i].numpy()[mask].mean() >= loss.min_confidence]
            own = next(theirs for c, theirs in rows if c == k)
            for mask in masks if own else ():
                pixel = oracles.mean_of(image, mask)

                def to(row: oracles.Array, pixel: oracles.Array = pixel) -> float:
                    return oracles.distance(loss.distance_name, pixel, row)[0]

                count = {"nearest": 1, "top_k": loss.top_k, "all": len(own)}[loss.positives]
                negative = sum(math.exp(-min(map(to, theirs)) / tau) for c, theirs in rows if c != k and theirs)
                losses = [
                    d + loss.repel * tau * math.log(math.exp(-d / tau) + negative) for d in sorted(map(to, own))[:count]
                ]
                total += float(np.mean(losses)) / len(masks)
    return total / len(features)


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0, "repel": 0.4},
    {"repel": 0.0, "positives": "top_k", "top_k": 2},
    {"positives": "top_k", "top_k": 3, "distance": "l1_mean"},
    {"positives": "top_k", "top_k": 99},
    {"positives": "all", "temperature": 0.5},
    {"distance": "l2", "min_area": 3},
    {"distance": "l1_mean", "min_confidence": 0.5, "temperature": 0.5},
    {"min_confidence": 0.5, "min_area": 2, "positives": "all"},
)


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("which", ["instance", "stuff", "instance and stuff"])
def test_value_equals_the_oracle(
    which: str, options: dict[str, Any], read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not read:
        monkeypatch.setattr("stuffinstance._checks.READ_ON", ())
    stuff, instance = filled()
    bank, negatives = {"instance": (instance, None), "stuff": (stuff, None)}.get(which, (instance, stuff))
    loss = si.RegionContrastLoss(bank, negatives=negatives, **options)
    features, confidence = torch.randn(3, D, 8, 6), torch.rand(3, 8, 6)
    labels = blocks(16, 12, (2, 5, 9, 7, 0, 8, 1, IGNORE), 3, 3, cell=4)
    expected = oracle(features, labels, loss, confidence)
    assert expected > 0.01
    assert loss(features, labels, confidence).item() == pytest.approx(expected, rel=1e-5)
    assert loss(features.double(), labels, confidence).item() == pytest.approx(expected, rel=1e-9)


def check_equal(features: Tensor, labels: Tensor, mine: torch.nn.Module, sims: torch.nn.Module) -> float:
    """Value and gradient within 1e-6."""
    features = features.clone().requires_grad_()
    values = [loss(features, labels) for loss in (mine, sims)]
    gradients = [torch.autograd.grad(value, features)[0] for value in values]
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    return float(values[1].detach())


@pytest.mark.filterwarnings("ignore:.* have other proportions")  # the recorded labels are stretched
@pytest.mark.parametrize("distance", ["l1_mean", "l1_squared", "l2", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_repelling_it_is_sims_loss(kind: str, distance: Any) -> None:
    total = 0.0
    for seed in range(3):
        case = random_case(kind, seed)
        sim = facade_of(case, "paper", distance=distance, require_full_bank=seed == 2)
        mine = [
            si.RegionContrastLoss(bank, 0.7, distance, repel=0.0, require_full_bank=seed == 2)
            for bank in (sim.stuff_bank, sim.instance_bank)
        ]
        for step in case.steps:
            sim.update(*source_of(step))
            features, logits, _ = target_of(step)
            for loss, sims in zip(mine, (sim.stuff_loss, sim.instance_loss), strict=True):
                total += check_equal(features, logits.argmax(1), loss, sims)
    assert total > 0 or kind in ("all-ignored", "one-pixel")


def test_without_repelling_it_repeats_the_recorded_losses(golden_sim: Recording) -> None:
    head = linear_head(golden_sim)
    capacity, most = int(golden_sim["capacity"]), int(golden_sim["max_instances"])
    sim = si.StuffInstanceMatching(
        si.CITYSCAPES, head.in_features, capacity=capacity, max_instances=most, classifier=head
    )
    loss = si.RegionContrastLoss(sim.instance_bank, distance="l1_mean", repel=0.0, require_full_bank=True)
    recorded = zip(
        *(golden_sim[f"{name}"] for name in ("source_features", "source_labels", "target_features", "loss_instance")),
        strict=True,
    )
    for source, labels, target, value in recorded:
        maps, ids, features = (torch.from_numpy(each)[None] for each in (source, labels, target))
        sim.update(maps, ids, logits_of(head, maps))
        predicted = logits_of(head, features).argmax(1)
        check_equal(features, predicted, loss, sim.instance_loss)
        assert loss(features, predicted).item() == pytest.approx(float(value), rel=1e-5, abs=1e-6)
    assert golden_sim["loss_instance"].any()


def line_of_regions() -> tuple[si.InstanceBank, Tensor, Tensor]:
    """Rows 1 and 9 of class 5 and 4 of class 6; regions of class 5 with features 2 (three pixels) and 7 (one)."""
    bank = si.InstanceBank((5, 6), 1, 4)
    bank.update(torch.tensor([[[[1.0, 0.0, 9.0, 4.0]]]]), torch.tensor([[[5, 0, 5, 6]]]))
    return bank, torch.tensor([[[[2.0, 2.0, 2.0, 0.0, 7.0]]]]), torch.tensor([[[5, 5, 5, 0, 5]]])


def test_values_by_hand() -> None:
    bank, features, labels = line_of_regions()
    first, second = math.log1p(math.exp(1 - 2)), math.log1p(math.exp(2 - 3))

    def value(confidence: Tensor | None = None, **options: Any) -> float:
        return si.RegionContrastLoss(bank, 1.0, "l1_mean", **options)(features, labels, confidence).item()

    assert value() == pytest.approx((first + second) / 2)
    assert value(min_area=2) == pytest.approx(first)
    assert value(repel=0.0, positives="top_k", top_k=2) == pytest.approx(((1 + 7) / 2 + (2 + 6) / 2) / 2)
    sure = torch.tensor([[[0.5, 0.6, 1.0, 0.0, 0.6]]])  # of the first region 0.7
    assert value(sure, min_confidence=0.65) == pytest.approx(first)
    assert value(min_confidence=0.65) == pytest.approx((first + second) / 2)
    assert value(torch.tensor([[[0.5, 0.9]]]), min_confidence=0.65) == pytest.approx(second)  # resized nearest
    for wrong in (4.0, -1.0, float("nan")):  # logits, say
        with pytest.raises(ValueError, match=r"confidence must be within 0\.\.1, .* pass logits\.softmax"):
            value(torch.full((1, 1, 5), wrong))
    stuff = si.StuffBank((0,), 1, 2)
    stuff.update(torch.tensor([[[[7.0]]]]), torch.tensor([[[0]]]))
    pushed = math.log1p(math.exp(1 - 2) + math.exp(1 - 5)), math.log1p(math.exp(2 - 3) + math.exp(2 - 0))
    assert value(negatives=stuff) == pytest.approx(sum(pushed) / 2)


def test_a_step_down_the_gradient_nears_the_own_class_and_leaves_the_others() -> None:
    bank, features, labels = line_of_regions()
    features.requires_grad_()
    pulled, pushed = (
        torch.autograd.grad(si.RegionContrastLoss(bank, 1.0, "l1_mean", repel=repel)(features, labels), features)[0]
        for repel in (0.0, 1.0)
    )
    assert pulled.flatten().sign().tolist() == [1, 1, 1, 0, -1]  # from 2 to 1, from 7 to 9
    assert pushed.flatten().sign().tolist() == [1, 1, 1, 0, -1]


@pytest.mark.parametrize("options", [{}, {"positives": "all"}, {"positives": "top_k"}, {"repel": 0.5}], ids=str)
@pytest.mark.parametrize("case", ["empty", "absent", "no classes", "too small"])
def test_nothing_that_counts_is_an_exact_zero_with_a_gradient(case: str, options: dict[str, Any]) -> None:
    bank = si.InstanceBank(() if case == "no classes" else (3, 4), D, 4)
    if case != "empty":
        bank.update(torch.randn(1, D, 4, 4), torch.tensor([3, 4, 3, 4]).expand(1, 4, 4))
    features = torch.randn(2, D, 4, 4, requires_grad=True)
    loss = si.RegionContrastLoss(bank, min_area=17, **options) if case == "too small" else si.RegionContrastLoss(bank)
    value = loss(features, torch.full((2, 4, 4), 9 if case == "absent" else 3))
    assert value.item() == 0
    value.backward()
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_a_region_that_does_not_count_may_hold_nan() -> None:
    bank, features, labels = line_of_regions()
    features[..., 4] = torch.nan
    features.requires_grad_()
    value = si.RegionContrastLoss(bank, min_area=2)(features, labels)
    value.backward()
    assert value.isfinite()
    assert bool(features.grad.isfinite().all())


@pytest.mark.parametrize("positives", ["nearest", "top_k", "all"])
def test_no_tensor_of_regions_by_classes_by_slots_by_channels_is_built(positives: Any) -> None:
    classes, slots, dim, most = 4, 80, 64, 6
    bank = si.InstanceBank(range(classes), dim, slots, max_instances=most)
    bank.features.normal_()
    bank.written.fill_(slots)
    features, labels = torch.randn(1, dim, 16, 16, requires_grad=True), blocks(16, 16, range(classes), 1, 1, cell=2)
    with LargestTensor() as largest:
        si.RegionContrastLoss(bank, positives=positives)(features, labels).backward()
    assert 4 * largest.numbers < classes * most * slots * dim


def test_settings_that_do_not_fit_each_other_are_an_error() -> None:
    bank, features, labels = line_of_regions()
    for options, error, words in (
        (
            {"positives": "all", "distance": "l2"},
            ValueError,
            "positives must be 'nearest' or 'top_k' with this distance",
        ),
        ({"negatives": si.StuffBank((1,), 2)}, ValueError, "negatives must have the bank's feature_dim D = 1"),
        ({"negatives": 3}, TypeError, "negatives must be a StuffBank or an InstanceBank"),
        ({"repel": 1.5}, ValueError, "repel must be between 0 and 1"),
    ):
        with pytest.raises(error, match=words):
            si.RegionContrastLoss(bank, **options)
    with pytest.raises(ValueError, match="confidence and features must hold the same B images"):
        si.RegionContrastLoss(bank)(features, labels, torch.rand(2, 1, 5))
