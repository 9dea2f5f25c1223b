"""Two networks' predictions to one: the maps by the oracle, thresholds on the score, and what agrees with itself."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance.pseudo_labels import (
    CBSTThreshold,
    IASTThreshold,
    PseudoLabelThreshold,
    SymmetricConsistency,
    symmetric,
)
from stuffinstance.pseudo_labels import threshold as confidences
from tests import oracles

BOUND = 2e-5


def random_pair(batch: int = 2, classes: int = 5, height: int = 9, width: int = 11) -> tuple[Tensor, Tensor]:
    shared = 2 * torch.randn(batch, classes, height, width)
    first, second = (shared + torch.randn_like(shared) for _ in range(2))
    return first.softmax(1), second.softmax(1)


def make(consistency: str = "l1", rule: PseudoLabelThreshold | None = None) -> SymmetricConsistency:
    return SymmetricConsistency(rule or si.ClassBalancedThreshold(5), consistency)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("consistency", ["l1", "agreement"])
def test_maps_equal_the_oracles(consistency: str) -> None:
    probs_a, probs_b = random_pair()
    found = make(consistency)(probs_a, probs_b)
    labels, scores = oracle(probs_a, probs_b, consistency)
    assert torch.equal(found.labels, torch.from_numpy(labels))
    np.testing.assert_allclose(found.score, scores, atol=1e-6)
    torch.testing.assert_close(found.probabilities, (probs_a + probs_b) / 2)
    torch.testing.assert_close(found.score, (found.probability + found.consistency) / 2)
    assert float(found.score.min()) >= 0
    assert float(found.score.max()) <= 1 + 1e-6


@pytest.mark.parametrize("consistency", ["l1", "agreement"])
def test_thresholds_and_labels_are_the_estimators_on_the_score(consistency: str) -> None:
    probs_a, probs_b = random_pair(4)
    module = make(consistency, si.ClassBalancedThreshold(5, quantile=0.4, cap=0.95))
    for b in range(4):
        module.update(probs_a[b : b + 1], probs_b[b : b + 1])
    labels, scores = oracle(probs_a, probs_b, consistency)
    expected = []
    for k in range(5):
        found = sorted(scores[labels == k].tolist())
        expected.append(min(found[min(round(len(found) * 0.4), len(found) - 1)], 0.95))
    np.testing.assert_allclose(module.compute(), expected, atol=BOUND)
    assert module.counts().tolist() == [int((labels == k).sum()) for k in range(5)]
    given = torch.tensor([0.3, 0.5, 0.7, 0.8, 0.9], dtype=torch.float64)
    kept = np.where(scores >= given.numpy()[labels], labels, 255)
    assert torch.equal(module.pseudo_labels(probs_a, probs_b, given), torch.from_numpy(kept))
    share = float((module.pseudo_labels(probs_a, probs_b) != 255).double().mean())
    assert 0.55 < share < 0.75  # a quantile of 0.4 keeps six of ten


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


def test_the_order_of_the_networks_does_not_matter() -> None:
    probs_a, probs_b = random_pair()
    one, other = make()(probs_a, probs_b), make()(probs_b, probs_a)
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first, second)


def test_where_they_contradict_each_other_nothing_is_consistent() -> None:
    probs_a = torch.tensor([1.0, 0, 0, 0, 0]).view(1, 5, 1, 1)
    probs_b = probs_a.flip(1)
    for consistency in ("l1", "agreement"):
        found = make(consistency)(probs_a, probs_b)
        assert found.consistency.item() == 0
        assert found.score.item() == 0.25


@pytest.mark.parametrize("rule", [CBSTThreshold(5), IASTThreshold(5, start=0.6)], ids=["portion", "adaptive"])
def test_every_rule_can_give_the_thresholds(rule: PseudoLabelThreshold) -> None:
    probs_a, probs_b = random_pair(3)
    module, alone = make(rule=copy.deepcopy(rule)), copy.deepcopy(rule)
    module.update(probs_a, probs_b)
    fused = module(probs_a, probs_b)
    alone.update_scores(fused.score, fused.labels)
    assert torch.equal(module.compute(), alone.compute())
    assert not torch.equal(module.compute(), rule.compute())
    assert torch.equal(module.pseudo_labels(probs_a, probs_b), alone.filter(fused.score, fused.labels))


def test_parts_merge_and_state_continues() -> None:
    probs_a, probs_b = random_pair(4)
    whole, first, second, loaded = make(), make(), make(), make()
    whole.update(probs_a, probs_b)
    first.update(probs_a[:1], probs_b[:1])
    second.update(probs_a[1:], probs_b[1:])
    loaded.load_state_dict(first.state_dict())
    for one in (copy.deepcopy(first), loaded, first):
        one.merge(second)
        assert torch.equal(one.compute(), whole.compute())
    first.reset()
    assert first.counts().tolist() == [0] * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    probs_a, probs_b = (p.to(dtype) for p in random_pair())
    found = make()(probs_a, probs_b)
    assert found.score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.score, oracle(probs_a, probs_b, "l1")[1], atol=1e-6)


def test_a_probability_that_rounding_carried_beyond_one_is_a_sure_one() -> None:
    sure = torch.tensor([1 + 2**-7, 0.0]).view(1, 2, 1, 1).bfloat16()
    module = make(rule=si.ClassBalancedThreshold(2, cap=1.0))
    module.update(sure, sure)
    assert module.counts().tolist() == [1, 0]
    assert module.pseudo_labels(sure, sure).tolist() == [[[0]]]


def test_nothing_seen_and_no_image() -> None:
    module = make()
    empty = torch.zeros(0, 5, 3, 4)
    module.update(empty, empty)
    with pytest.warns(UserWarning, match="thresholds of no predictions"):
        assert module.compute().tolist() == [0] * 5
    with pytest.warns(UserWarning, match="thresholds of no predictions"):
        assert module.pseudo_labels(empty, empty).shape == (0, 3, 4)


@pytest.mark.parametrize("consistency", ["l1", "agreement"])
def test_where_values_are_not_read_a_broken_pixel_is_ignored(monkeypatch: pytest.MonkeyPatch, consistency: str) -> None:
    monkeypatch.setattr(confidences, "may_read", lambda *_: False)
    probs_a, probs_b = random_pair(1)
    probs_b[0, 2, 3, 4] = float("nan")
    module = make(consistency)
    module.update(probs_a, probs_b)
    assert int(module.counts().sum()) == 9 * 11 - 1
    assert module.pseudo_labels(probs_a, probs_b, torch.zeros(5))[0, 3, 4] == 255


def test_compiled_in_one_graph() -> None:
    torch.use_deterministic_algorithms(False)
    torch.compiler.reset()
    probs_a, probs_b = random_pair()
    plain, module = make(), make()
    plain.update(probs_a, probs_b)
    torch.compile(module.update, fullgraph=True, backend="aot_eager")(probs_a, probs_b)
    assert torch.equal(module.compute(), plain.compute())
    label = torch.compile(module.pseudo_labels, fullgraph=True, backend="aot_eager")
    assert torch.equal(label(probs_a, probs_b), plain.pseudo_labels(probs_a, probs_b))


P = torch.full((1, 5, 4, 4), 0.2)


@pytest.mark.parametrize("method", ["forward", "update", "pseudo_labels"])
@pytest.mark.parametrize(("probs_a", "probs_b", "message"), [
    (P, P[..., :3], r"probs_b must have the size .*\(1, 5, 4, 4\), got \(1, 5, 4, 3\)"),
    (P, P.repeat(2, 1, 1, 1), r"probs_b and probs_a must hold the same B"),
    (P[:, :4], P, r"probs_a must have K = 5 .*got 4"),
    (P, P.log(), r"probs_b must be .*softmax"),
    (P, P * float("nan"), r"probs_b must be finite"),
    (P, P.to("meta"), r"probs_b and probs_a must be on one device"),
], ids=["size", "batch", "classes", "logits", "nan", "device"])  # fmt: skip
def test_predictions_that_do_not_fit_raise(method: str, probs_a: Tensor, probs_b: Tensor, message: str) -> None:
    module = make()
    with pytest.raises(ValueError, match=message):
        getattr(module, method)(probs_a, probs_b)
    assert not module.counts().any()


def test_settings_out_of_range_raise() -> None:
    with pytest.raises(TypeError, match=r"rule must be a PseudoLabelThreshold .*got float"):
        symmetric.SymmetricConsistency(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="consistency must be one of 'l1', 'agreement', got 'l2'"):
        make("l2")
    with pytest.raises(ValueError, match="other must score by 'l1'"):
        make("l1").merge(make("agreement"))
    with pytest.raises(TypeError, match=r"other must be a SymmetricConsistency, .*got CBSTThreshold"):
        make().merge(CBSTThreshold(5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="other must be a ClassBalancedThreshold"):
        make().merge(make(rule=CBSTThreshold(5)))
