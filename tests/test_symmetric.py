"""Two networks' predictions to one: the maps by the oracle, thresholds on the score, and what agrees with itself."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests import oracles

BOUND = 2e-5


def random_pair(batch: int = 2, classes: int = 5, height: int = 9, width: int = 11) -> tuple[Tensor, Tensor]:
    shared = 2 * torch.randn(batch, classes, height, width)
    first, second = (shared + torch.randn_like(shared) for _ in range(2))
    return first.softmax(1), second.softmax(1)


def make(consistency: str = "l1", rule: si.PseudoLabelThreshold | None = None) -> si.SymmetricConsistency:
    return si.SymmetricConsistency(rule or si.ClassBalancedThreshold(5), consistency)


def oracle(probs_a: Tensor, probs_b: Tensor, consistency: str) -> tuple[np.ndarray, np.ndarray]:
    """Label and M_final, pixel by pixel."""
    batch, _, height, width = probs_a.shape
    labels, scores = np.zeros((batch, height, width), dtype=np.int64), np.zeros((batch, height, width))
    for b, i, j in np.ndindex(batch, height, width):
        one, other = probs_a[b, :, i, j].tolist(), probs_b[b, :, i, j].tolist()
        fused = [(x + y) / 2 for x, y in zip(one, other, strict=True)]
        labels[b, i, j] = fused.index(max(fused))
        if consistency == "l1":
            agreement = 1 - sum(abs(x - y) for x, y in zip(one, other, strict=True)) / 2
        else:
            agreement = float(one.index(max(one)) == other.index(max(other)))
        scores[b, i, j] = (max(fused) + agreement) / 2
    return labels, scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("consistency", ["l1", "agreement"])
def test_maps_equal_the_oracles(consistency: str, dtype: torch.dtype) -> None:
    probs_a, probs_b = (p.to(dtype) for p in random_pair())
    found = make(consistency)(probs_a, probs_b)
    labels, scores = oracle(probs_a, probs_b, consistency)
    assert torch.equal(found.labels, torch.from_numpy(labels))
    np.testing.assert_allclose(found.score, scores, atol=1e-6)
    assert found.score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for first, second in zip(found, make(consistency)(probs_b, probs_a), strict=True):
        assert torch.equal(first, second)
    torch.testing.assert_close(found.score, (found.probability + found.consistency) / 2)
    assert float(found.score.min()) >= 0
    assert float(found.score.max()) <= 1 + 1e-6


def test_a_network_that_agrees_with_itself_gives_sims_labels() -> None:
    """With p_A = p_B the score is (max p + 1) / 2: the same order, so the same pixels."""
    p, _ = random_pair(3)
    module, plain = make(rule=si.ClassBalancedThreshold(5, cap=1.0)), si.ClassBalancedThreshold(5, cap=1.0)
    module.update(p, p)
    plain.update(p)
    images = list(p.double().numpy())
    exact = torch.from_numpy(oracles.class_thresholds(images, 0.5, 1.0))
    labels = module.pseudo_labels(p, p, (exact + 1) / 2 - 1e-7)
    assert torch.equal(labels, plain.pseudo_labels(p, exact - 1e-7))
    np.testing.assert_allclose(module.compute(), (exact + 1) / 2, atol=BOUND)


def test_where_they_contradict_each_other_nothing_is_consistent() -> None:
    probs_a = torch.tensor([1.0, 0, 0, 0, 0]).view(1, 5, 1, 1)
    probs_b = probs_a.flip(1)
    for consistency in ("l1", "agreement"):
        found = make(consistency)(probs_a, probs_b)
        assert found.consistency.item() == 0
        assert found.score.item() == 0.25


@pytest.mark.parametrize(
    "rule",
    [si.ClassBalancedThreshold(5, quantile=0.4, cap=0.95), si.CBSTThreshold(5), si.IASTThreshold(5, start=0.6)],
    ids=["median", "portion", "online"],
)
def test_every_rule_can_give_the_thresholds(rule: si.PseudoLabelThreshold) -> None:
    probs_a, probs_b = random_pair(3)
    module, alone = make(rule=copy.deepcopy(rule)), copy.deepcopy(rule)
    module.update(probs_a, probs_b)
    fused = module(probs_a, probs_b)
    alone.update_scores(fused.score, fused.labels)
    assert torch.equal(module.compute(), alone.compute())
    assert module.counts().any()
    assert torch.equal(module.pseudo_labels(probs_a, probs_b), alone.filter(fused.score, fused.labels))


def test_a_probability_that_rounding_carried_beyond_one_is_a_sure_one() -> None:
    sure = torch.tensor([1 + 2**-7, 0.0]).view(1, 2, 1, 1).bfloat16()
    module = make(rule=si.ClassBalancedThreshold(2, cap=1.0))
    module.update(sure, sure)
    assert module.counts().tolist() == [1, 0]
    assert module.pseudo_labels(sure, sure).tolist() == [[[0]]]


@pytest.mark.parametrize("consistency", ["l1", "agreement"])
@pytest.mark.usefixtures("unread")
def test_where_values_are_not_read_a_broken_pixel_is_ignored(consistency: str) -> None:
    probs_a, probs_b = random_pair(1)
    probs_b[0, 2, 3, 4] = float("nan")
    module = make(consistency)
    module.update(probs_a, probs_b)
    assert int(module.counts().sum()) == 9 * 11 - 1
    assert module.pseudo_labels(probs_a, probs_b, torch.zeros(5))[0, 3, 4] == 255


def test_parts_merge() -> None:
    probs_a, probs_b = random_pair(4)
    whole, first, second = make(), make(), make()
    whole.update(probs_a, probs_b)
    first.update(probs_a[:1], probs_b[:1])
    second.update(probs_a[1:], probs_b[1:])
    first.merge(second)
    assert torch.equal(first.compute(), whole.compute())
