"""The oracles reproduce what the authors' code computed, and a few values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests import oracles
from tests.label_maps import GALLERY


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
        sim.update(source, recorded["source_labels"][t].astype(np.int64), logits_of(sim, source))
        assert list(sim.stuff_bank.written.values()) == recorded["stuff_count"][t].tolist()
        assert list(sim.instance_bank.written.values()) == recorded["instance_count"][t].tolist()
        stuff, stuff_slope, instance, instance_slope = sim.losses(target, logits_of(sim, target))
        assert stuff == pytest.approx(recorded["loss_stuff"][t], rel=1e-6)
        assert instance == pytest.approx(recorded["loss_instance"][t], rel=1e-6)
        np.testing.assert_allclose(stuff_slope, recorded["grad_stuff"][t], atol=1e-7)
        np.testing.assert_allclose(instance_slope, recorded["grad_instance"][t], atol=1e-7)


def logits_of(sim: oracles.Sim, features: np.ndarray) -> np.ndarray:
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
