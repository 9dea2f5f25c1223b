"""Distance to the category anchors: recorded numbers, plain versions by region and by pixel, and what is nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import stuffinstance as si
from stuffinstance.losses.anchors import _distance_of_means
from tests.label_maps import IGNORE
from tests.plain_anchors import Array, D, K, agreed, batch, filled, plain_loss, recorded_anchors


def test_loss_and_gradient_are_the_recorded_ones(golden_baselines: dict[str, Array]) -> None:
    """The recording used every default: agreement with the logits, 10 pixels, and the scaled gradient."""
    loss = si.AnchorDistanceLoss(recorded_anchors(golden_baselines))
    target = torch.from_numpy(golden_baselines["cag_target_features"]).requires_grad_()
    labels = torch.from_numpy(golden_baselines["cag_assignment"])
    value = loss(target, labels, torch.from_numpy(golden_baselines["cag_target_logits"]))
    assert value.item() == pytest.approx(float(golden_baselines["cag_distance_loss"][0]), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, target)
    expected = golden_baselines["cag_distance_grad"]
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("damp_above", [5.0, 0.02, None])
@pytest.mark.parametrize("scale", [1.0, 200.0, 3000.0])
def test_value_and_scaled_gradient_equal_the_plain_version(scale: float, damp_above: float | None) -> None:
    anchors, plain = filled()
    features, labels, logits = batch(9)
    features = (scale * features.double()).requires_grad_()
    value = si.AnchorDistanceLoss(anchors, damp_above=damp_above)(features, labels, logits)
    expected, slope = plain_loss(features.detach().numpy(), agreed(labels, logits), plain, damp_above)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert value.item() > 0
    (gradient,) = torch.autograd.grad(value, features)
    np.testing.assert_allclose(gradient, slope, atol=1e-12)


@pytest.mark.parametrize(("distance", "softened"), [(5.5, 5.0), (5.6, 0.51), (50.5, 5.0), (60.5, 0.6), (6000.5, 0.6)])
def test_softening_by_hand(distance: float, softened: float) -> None:
    row = torch.tensor([[[distance]]], dtype=torch.float64)
    value = _distance_of_means(row, torch.tensor([[True]]), torch.zeros(1, 1, dtype=torch.float64), 5.0)
    assert value.item() == pytest.approx(10 * softened)


def test_the_papers_form_equals_the_plain_version() -> None:
    anchors, plain = filled()
    features, labels, logits = batch(9)
    features = features.double().requires_grad_()
    value = si.AnchorDistanceLoss(anchors, form="paper")(features, labels, logits)
    slope, terms = np.zeros(features.shape), []
    for b, y, x in zip(*np.nonzero(agreed(labels, logits) != IGNORE), strict=True):
        anchor = plain.mean.get(int(labels[b, y, x]))
        if anchor is not None:
            apart = features.detach().numpy()[b, :, y, x] - anchor
            terms.append((apart**2).sum())
            slope[b, :, y, x] = 2 * apart
    assert value.item() == pytest.approx(np.mean(terms))
    (gradient,) = torch.autograd.grad(value, features)
    np.testing.assert_allclose(gradient, slope / len(terms), atol=1e-12)


@pytest.mark.parametrize("options", [
    {"scale_gradient": False}, {"scale_gradient": False, "damp_above": 0.1}, {"form": "paper"}
])  # fmt: skip
def test_the_function_is_the_module(options: dict[str, Any]) -> None:
    anchors, _ = filled()
    features, labels, logits = batch(9)
    value = si.anchor_distance_loss(features, labels, anchors, logits=logits, **options)
    assert value > 0
    assert torch.equal(value, si.AnchorDistanceLoss(anchors, **options)(features, labels, logits))


@pytest.mark.parametrize("form", ["code", "paper"])
def test_without_logits_all_labeled_pixels_count(form: Any) -> None:
    loss = si.AnchorDistanceLoss(filled()[0], form)
    features, labels, _ = batch(9)
    sure = torch.nn.functional.one_hot(labels.clamp(max=K - 1), K).movedim(3, 1).float()
    assert torch.equal(loss(features, labels), loss(features, labels, sure))


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("why", ["ignored", "no anchors", "class without anchor", "no image"])
def test_nothing_to_pull_is_zero_on_the_graph(form: Any, why: str) -> None:
    anchors = si.CategoryAnchors(K, D) if why == "no anchors" else filled()[0]
    features, labels, logits = batch(9, 0 if why == "no image" else 2)
    labels = {"ignored": torch.full_like(labels, IGNORE), "class without anchor": torch.full_like(labels, 2)}.get(
        why, labels
    )
    features.requires_grad_()
    value = si.AnchorDistanceLoss(anchors, form)(features, labels, None if why == "class without anchor" else logits)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, features)
    assert not gradient.any()
