"""Segmentation heads as classifiers of pooled features."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import stuffinstance as si

ROWS = torch.randn(5, 4)
HEADS = {
    "1x1": nn.Conv2d(4, 3, 1),
    "dilated": nn.Conv2d(4, 3, 3, padding=6, dilation=6),
    "deep": nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(8, 3, 1)),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_classifier_equals_the_head_on_one_pixel_in_evaluation_mode(name: str) -> None:
    head = HEADS[name].train()
    classifier = si.head_classifier(head)
    logits = classifier(ROWS)
    assert all(module.training for module in head.modules())
    assert torch.equal(logits, copy.deepcopy(head).eval()(ROWS[:, :, None, None])[:, :, 0, 0])
    assert torch.equal(pickle.loads(pickle.dumps(classifier))(ROWS), logits)
    assert torch.equal(copy.deepcopy(classifier)(ROWS), logits)


def test_a_dilated_convolution_is_its_center_tap() -> None:
    head = HEADS["dilated"]
    expected = ROWS @ head.weight[:, :, 1, 1].T + head.bias
    torch.testing.assert_close(si.head_classifier(head)(ROWS), expected)


def test_head_classifier_converts_rows_to_the_dtype_of_the_head() -> None:
    head = copy.deepcopy(HEADS["1x1"]).bfloat16()
    assert si.head_classifier(head)(ROWS).dtype == torch.bfloat16


def test_head_classifier_follows_the_weights_and_keeps_the_mode_when_the_head_fails() -> None:
    head = copy.deepcopy(HEADS["deep"]).train()
    classifier = si.head_classifier(head)
    before = classifier(ROWS)
    with torch.no_grad():
        head[0].weight.add_(1)
    assert not torch.equal(classifier(ROWS), before)
    with pytest.raises(RuntimeError):
        classifier(ROWS[:, :2])
    assert all(module.training for module in head.modules())


@pytest.mark.parametrize("name", HEADS)
def test_head_classifier_compiles_whole(name: str) -> None:
    head = copy.deepcopy(HEADS[name]).train()
    bank = si.StuffBank((0, 2), 4)
    loss = si.StuffMatchingLoss(bank, classifier=si.head_classifier(head))
    features, labels = torch.randn(1, 4, 3, 5), torch.randint(0, 3, (1, 3, 5))
    bank.update(features, labels)
    features.requires_grad_()
    torch.testing.assert_close(
        torch.compile(loss, fullgraph=True, backend="eager")(features, labels), loss(features, labels)
    )
    assert all(module.training for module in head.modules())
    torch.compiler.reset()
