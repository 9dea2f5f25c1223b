"""Bad input raises with the argument's name, and no byte of a bank has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from stuffinstance._checks import checked_ignore_index
from tests.label_maps import IGNORE

SPACE = si.LabelSpace(names=("a", "b", "c"), stuff=(0,), things=(1, 2))
D, K = 4, 3


def module(**options: Any) -> si.StuffInstanceMatching:
    """Banks with something in them, so that a half-done write would show."""
    sim = si.StuffInstanceMatching(SPACE, D, preset="paper", capacity=2, max_instances=2, **options)
    features, labels, logits = source()
    sim.update(features, labels, logits)
    return sim


def source() -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.arange(3).repeat(2, 6, 2)
    logits = 5 * torch.nn.functional.one_hot(labels, K).movedim(3, 1).float()
    return torch.randn(2, D, 6, 6), labels, logits


def state_bytes(sim: si.StuffInstanceMatching) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in sim.state_dict().items()}


def poisoned(features: Tensor, value: float) -> Tensor:
    features = features.clone()
    features[1, 0, 0, 0] = value
    return features


Change = Callable[[Tensor], Tensor]

FEATURES: dict[str, tuple[Change, str]] = {
    "rank": (lambda x: x[0], r"_features must be .*\(B, D = 4, h, w\).*\(4, 6, 6\)"),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), r"_features must be .*tokens"),
    "channels": (lambda x: x[:, :3], r"_features must have D = 4 .*got 3"),
    "dtype": (lambda x: x.to(torch.int64), r"_features must be .*int64"),
    "batch": (lambda x: x[:1], r"_features .*B = 1|B = 1.*_features"),
    "size": (lambda x: x[:, :, :5], r"features.*\(5, 6\)"),
    "no pixels": (lambda x: x[:, :, :0], r"_features .*"),
    "device": (lambda x: x.to("meta"), r"_features .*meta"),
    "not a tensor": (lambda x: x.numpy(), r"_features must be .*ndarray"),  # type: ignore[arg-type, return-value]
}
LOGITS: dict[str, tuple[Change, str]] = {
    "rank": (lambda x: x[0], r"_logits must be .*\(3, 6, 6\)"),
    "labels": (lambda x: x.argmax(1), r"_logits must be .*int64.*are two arguments swapped"),
    "classes": (lambda x: x[:, :2], r"_logits must have K = 3 .*got 2"),
    "batch": (lambda x: x[:1], r"_logits .*B = 1"),
    "size": (lambda x: x[:, :, :, :5], r"_logits .*\(6, 5\)"),
    "device": (lambda x: x.to("meta"), r"_logits .*meta"),
    "not a tensor": (lambda x: x.tolist(), r"_logits must be .*list"),  # type: ignore[arg-type, return-value]
}
LABELS: dict[str, tuple[Change, str]] = {
    "rank": (lambda x: x[0], r"labels must be .*\(B, H, W\).*\(6, 6\)"),
    "one channel": (lambda x: x[:, None], r"labels must be .*\(2, 1, 6, 6\)"),
    "dtype": (lambda x: x.float(), r"labels must be .*float32"),
    "mask": (lambda x: x.bool(), r"labels must be .*bool"),
    "batch": (lambda x: x[:1], r"labels .*B = 1"),
    "too large": (lambda x: torch.where(x == 2, 3, x), r"labels must hold class ids 0\.\.2 .*\[3\]"),
    "negative": (lambda x: torch.where(x == 2, -1, x), r"labels must hold class ids .*\[-1\]"),
    "raw ids": (lambda x: (x + 24).to(torch.uint8), r"labels must hold class ids .*24"),
    "no pixels": (lambda x: x[:, :0], r"labels .*"),
    "device": (lambda x: x.to("meta"), r"labels .*meta"),
    "not a tensor": (lambda x: x.numpy(), r"labels must be .*ndarray"),  # type: ignore[arg-type, return-value]
}


def check_raises(sim: si.StuffInstanceMatching, call: Callable[[], object], message: str) -> None:
    before = state_bytes(sim)
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert state_bytes(sim) == before
    assert "got" in str(error.value), "the message must say what came"


@pytest.mark.parametrize("change", FEATURES)
def test_source_features(change: str) -> None:
    sim, (features, labels, logits) = module(), source()
    wrong, message = FEATURES[change]
    if change == "batch":
        message = r"(?s)source_\w+ .*B = "
    check_raises(sim, lambda: sim.update(wrong(features), labels, logits), message)


@pytest.mark.parametrize("change", LOGITS)
def test_source_logits(change: str) -> None:
    sim, (features, labels, logits) = module(), source()
    wrong, message = LOGITS[change]
    check_raises(sim, lambda: sim.update(features, labels, wrong(logits)), f"source{message}")


@pytest.mark.parametrize("change", LABELS)
def test_source_labels(change: str) -> None:
    sim, (features, labels, logits) = module(), source()
    wrong, message = LABELS[change]
    check_raises(sim, lambda: sim.update(features, wrong(labels), logits), f"source_{message}")


@pytest.mark.parametrize("change", FEATURES)
def test_target_features(change: str) -> None:
    sim, (features, _, logits) = module(), source()
    wrong, message = FEATURES[change]
    if change == "batch":
        message = r"(?s)target_\w+ .*B = "
    check_raises(sim, lambda: sim(wrong(features), logits), message)


@pytest.mark.parametrize("change", LOGITS)
def test_target_logits(change: str) -> None:
    sim, (features, _, logits) = module(), source()
    wrong, message = LOGITS[change]
    check_raises(sim, lambda: sim(features, wrong(logits)), f"target{message}")


@pytest.mark.parametrize("change", LABELS)
def test_pseudo_labels(change: str) -> None:
    sim, (features, labels, logits) = module(), source()
    wrong, message = LABELS[change]
    check_raises(sim, lambda: sim(features, logits, wrong(labels)), f"pseudo_{message}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_raise_when_validating(value: float) -> None:
    sim, (features, labels, logits) = module(validate_args=True), source()
    bad = poisoned(features, value)
    check_raises(sim, lambda: sim.update(bad, labels, logits), r"source_features must be finite.*1 NaN or inf")
    check_raises(sim, lambda: sim(bad, logits), r"target_features must be finite")
    scores = poisoned(logits, value)
    check_raises(sim, lambda: sim.update(features, labels, scores), r"source_logits must be finite")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_lose_only_their_own_row(value: float) -> None:
    sim, (features, labels, logits) = module(), source()
    clean = module()
    before = {name: count.clone() for name, count in sim.named_buffers() if name.endswith("written")}
    sim.update(poisoned(features, value), labels, logits)
    clean.update(features, labels, logits)
    assert all(torch.isfinite(x).all() for x in (sim.stuff_bank.features, sim.instance_bank.features))
    assert (sim.stuff_bank.written - before["stuff_bank.written"]).tolist() == [1]
    assert torch.equal(sim.instance_bank.written, clean.instance_bank.written)


def test_all_ignored_raises_nothing_and_changes_nothing() -> None:
    sim, (features, labels, logits) = module(), source()
    before = state_bytes(sim)
    sim.update(features, torch.full_like(labels, IGNORE), logits)
    assert state_bytes(sim) == before


def test_everything_predicted_wrong_changes_nothing() -> None:
    sim, (features, labels, logits) = module(), source()
    before = state_bytes(sim)
    sim.update(features, labels, logits.roll(1, 1))
    assert state_bytes(sim) == before


def test_a_classifier_that_fails_leaves_both_banks_alone() -> None:
    def only_stuff(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        if len(calls) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return torch.zeros(len(rows), K)

    calls: list[int] = []
    sim = si.StuffInstanceMatching(SPACE, D, preset="paper", classifier=only_stuff)
    before = state_bytes(sim)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"^out of memory$"):
        sim.update(*source())
    assert len(calls) == 2
    assert state_bytes(sim) == before


@pytest.mark.parametrize("head", [
    torch.nn.Conv2d(D, K, 1), torch.nn.Linear(D + 1, K), lambda rows: int(rows), lambda rows: rows.view(-1, 7)
])  # fmt: skip
def test_a_classifier_that_cannot_take_rows_raises(head: Change) -> None:
    sim = si.StuffInstanceMatching(SPACE, D, preset="paper", classifier=head)
    message = r"(?s)classifier must map rows \(N, D\).*with \(N, D\) = \(2, 4\) failed, got \w+Error: .*head_classifier"
    check_raises(sim, lambda: sim.update(*source()), message)


def test_a_convolutional_head_works_as_the_message_says() -> None:
    head = torch.nn.Sequential(torch.nn.Conv2d(D, D, 1), torch.nn.Conv2d(D, K, 3, padding=2, dilation=2))
    sim = si.StuffInstanceMatching(SPACE, D, preset="paper", classifier=si.head_classifier(head))
    sim.update(*source())


@pytest.mark.parametrize("array", [np.ones((3, 2, 2)), np.ones((3, 2, 2), dtype=np.int64)])
def test_an_array_is_described_and_not_printed(array: Any) -> None:
    with pytest.raises(TypeError) as error:
        si.connected_components(array)
    size = f"got ndarray {array.dtype} (3, 2, 2); pass torch.from_numpy(x)."
    assert str(error.value) == f"labels must be an integer or bool tensor (B, H, W), {size}"
    si.connected_components(torch.from_numpy(array).long())


def test_a_label_space_as_classes_raises() -> None:
    with pytest.raises(TypeError, match=r"got LabelSpace\. Pass space\.things or space\.stuff\.$"):
        si.InstanceBank(SPACE, D)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got ndarray float64 \(2,\)\.$"):
        si.InstanceBank(np.ones(2), D)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ignore_index must be a whole number, got float64 .*2\.5"):
        checked_ignore_index(np.float64(2.5), K)  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "message"), [
    ({"capacity": 0}, r"capacity must be .*got 0"),
    ({"capacity": -3}, r"capacity must be .*-3"),
    ({"capacity": 2.5}, r"capacity must be .*2.5"),
    ({"max_instances": 0}, r"max_instances must be .*got 0"),
    ({"feature_dim": 0}, r"feature_dim must be .*got 0"),
    ({"preset": "Paper"}, r"preset must be .*'Paper'"),
    ({"classifier": 7}, r"classifier must be .*int"),
    ({"sync": "on"}, r"sync must be .*'on'"),
    ({"distance": "l3"}, r"distance must be one of .*'l3'"),
    ({"require_full_bank": 1}, r"require_full_bank must be True or False, got int 1"),
])  # fmt: skip
def test_bad_settings_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        si.StuffInstanceMatching(**{"space": SPACE, "feature_dim": D, **options})


def test_a_checkpoint_of_another_size_raises() -> None:
    sim = module()
    other = si.StuffInstanceMatching(SPACE, D + 1, preset="paper", capacity=2, max_instances=2)
    before = state_bytes(sim)
    with pytest.raises(RuntimeError, match=rf"state of StuffBank must be .*feature_dim={D}, got one of .*={D + 1}"):
        sim.load_state_dict(other.state_dict())
    assert state_bytes(sim) == before
