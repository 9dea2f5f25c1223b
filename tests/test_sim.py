"""StuffInstanceMatching: batches, copies, presets, precisions, broken input, and how many calls a step makes."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests.label_maps import IGNORE
from tests.public_calls import Maps, matching

SMALL = si.LabelSpace(names=("a", "b", "c", "d", "e"), stuff=(0, 3), things=(1, 4))


def batch(seed: int, images: int = 3, size: tuple[int, int] = (9, 14), space: si.LabelSpace = SMALL, dim: int = 6):
    """Source features, labels and logits, or target features and logits: (B, D, h, w), (B, 2H, 3W), (B, K, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    k = space.num_classes
    coarse = torch.randint(k, (images, -(-size[0] // 3), -(-size[1] // 3)), generator=generator)
    labels = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, : size[0], : size[1]]
    logits = 2 * torch.nn.functional.one_hot(labels, k).movedim(3, 1).float()
    logits = logits + torch.randn(logits.shape, generator=generator)
    features = torch.randn(images, dim, *size, generator=generator)
    return features, labels.repeat_interleave(2, 1).repeat_interleave(3, 2), logits


def make(preset: str = "paper", **options: object) -> si.StuffInstanceMatching:
    return si.StuffInstanceMatching(SMALL, 6, preset=preset, capacity=2, max_instances=3, **options)


def state(sim: si.StuffInstanceMatching) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in sim.state_dict().items()}


def unchanged(sim: si.StuffInstanceMatching, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], value) for name, value in sim.state_dict().items())


def filled(preset: str = "paper", **options: object) -> si.StuffInstanceMatching:
    sim = make(preset, **options)
    for seed in range(6):
        sim.update(*batch(seed))
    return sim


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_a_batch_equals_the_mean_of_its_images(preset: str) -> None:
    sim = filled(preset)
    features, labels, logits = batch(20, images=4)
    features.requires_grad_()
    pseudo = torch.where(torch.rand(labels.shape) < 0.7, IGNORE, labels)
    together = sim(features, logits, pseudo)
    singles = [sim(features[b : b + 1], logits[b : b + 1], pseudo[b : b + 1]) for b in range(4)]
    for kind in ("stuff", "instance"):
        mean = sum(getattr(single, kind) for single in singles) / 4
        torch.testing.assert_close(getattr(together, kind), mean)
        assert mean > 0
        one, other = (
            torch.autograd.grad(value, features, retain_graph=True)[0] for value in (getattr(together, kind), mean)
        )
        torch.testing.assert_close(one, other)


def test_presets_differ_as_stated() -> None:
    code, paper = make("code"), make("paper")
    source = batch(22, images=1)
    for sim in (code, paper):
        sim.update(*source)
    features, _, logits = batch(22, images=1)
    assert sum(code(features + 1, logits)).item() == 0  # still warming up
    assert sum(paper(features + 1, logits)).item() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda sim: pickle.loads(pickle.dumps(sim))])
def test_losses_of_a_copy_read_its_own_banks(copied: Callable[[object], si.StuffInstanceMatching]) -> None:
    sim = filled()
    other, before, (features, _, logits) = copied(sim), state(sim), batch(29)
    assert torch.equal(torch.stack(other(features, logits)), torch.stack(sim(features, logits)))
    other.update(*batch(30))
    assert unchanged(sim, before)
    assert other.stuff_loss.bank is other.stuff_bank
    assert other.instance_loss.bank is other.instance_bank
    assert not torch.equal(other.stuff_bank.written, sim.stuff_bank.written)


def test_an_update_after_forward_does_not_disturb_backward() -> None:
    """The bank may be written between a loss and its gradient."""
    sim = filled()
    features, _, logits = batch(32)
    features.requires_grad_()
    (expected,) = torch.autograd.grad(sum(sim(features, logits)), features)
    losses = sim(features, logits)
    sim.update(*batch(33))
    (actual,) = torch.autograd.grad(losses.stuff + losses.instance, features)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("preset", ["paper", "code"])
def test_empty_banks_and_no_images_are_an_attached_zero(preset: str, images: int) -> None:
    sim = make(preset) if images else filled(preset)
    features, labels, logits = batch(34, images=2)
    features, labels, logits = features[:images].requires_grad_(), labels[:images], logits[:images]
    losses = sim(features, logits, labels)
    assert [value.item() for value in losses] == [0, 0]
    (losses.stuff + losses.instance).backward()
    assert features.grad is not None
    assert not features.grad.any()
    if not images:
        before = state(sim)
        sim.update(features.detach(), labels, logits)
        assert unchanged(sim, before)


@pytest.mark.filterwarnings("ignore:space has neither stuff nor things:UserWarning")
@pytest.mark.parametrize("space", [
    si.LabelSpace(names=("a", "b", "c", "d", "e"), stuff=(0, 3), things=()),
    si.LabelSpace(names=("a", "b", "c", "d", "e"), stuff=(), things=(1, 4)),
    si.LabelSpace(names=("a", "b", "c", "d", "e"), stuff=(), things=()),
], ids=["stuff-only", "things-only", "neither"])  # fmt: skip
def test_a_space_may_lack_stuff_or_things(space: si.LabelSpace) -> None:
    sim = si.StuffInstanceMatching(space, 6, preset="paper")
    sim.update(*batch(35))
    features, _, logits = batch(36)
    losses = sim(features.requires_grad_(), logits)
    (losses.stuff + losses.instance).backward()
    assert (losses.stuff.item() > 0) == bool(space.stuff)
    assert (losses.instance.item() > 0) == bool(space.things)


def test_pseudo_labels_change_what_is_matched() -> None:
    sim = filled()
    features, labels, logits = batch(38)
    nothing = torch.full_like(labels, IGNORE)
    plain = sim(features, logits)
    assert torch.equal(torch.stack(sim(features, logits, nothing)), torch.stack(plain))
    relabeled = sim(features, logits, torch.full_like(labels, 3))
    assert relabeled.instance.item() == 0
    assert relabeled.stuff.item() > 0


@pytest.mark.parametrize("preset", ["code", "paper"])
def test_a_forgotten_update_warns_once(preset: str) -> None:
    sim, (features, _, logits) = make(preset), batch(3)
    for _ in range(99):
        sim(features, logits)
    with pytest.warns(UserWarning, match="no row was ever written, .* call update"):
        losses = sim(features, logits)
    assert losses == (0, 0)
    for _ in range(101):
        sim(features, logits)


def test_banks_that_were_loaded_are_not_empty() -> None:
    full, sim, (features, labels, logits) = make("paper"), make("paper"), batch(3)
    while not full.stuff_bank.written.any():
        full.update(features, labels, logits)
    sim.load_state_dict(full.state_dict())
    for _ in range(101):
        sim(features, logits)


def test_a_space_of_unmatched_classes_is_warned_about_where_it_is_matched() -> None:
    space = si.LabelSpace(names=("background", "cell"))  # which is legitimate: to draw them, for instance
    si.StuffBank(space.stuff, 6), si.InstanceBank(space.things, 6)
    with pytest.warns(UserWarning, match=r"neither stuff nor things.*background, cell.*pass the ids or names") as seen:
        sim = si.StuffInstanceMatching(space, 6)
    assert len(seen) == 1
    sim.update(torch.randn(1, 6, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int64), torch.randn(1, 2, 3, 4))
    sim(torch.randn(1, 6, 3, 4, requires_grad=True), torch.randn(1, 2, 3, 4))


def test_distance_and_full_bank_override_the_preset() -> None:
    plain = filled("paper")
    for preset in ("code", "paper"):
        sim = make(preset, distance="l2", require_full_bank=False)
        sim.load_state_dict(plain.state_dict())
        features, _, logits = batch(40)
        losses = sim(features, logits)
        predicted = logits.argmax(1)
        assert torch.equal(losses.stuff, si.stuff_matching_loss(features, predicted, plain.stuff_bank, distance="l2"))
        assert torch.equal(
            losses.instance, si.instance_matching_loss(features, predicted, plain.instance_bank, distance="l2")
        )
    assert make("code").stuff_loss.require_full_bank
    assert make("paper", require_full_bank=True).instance_loss.require_full_bank
    assert not make("paper").stuff_loss.require_full_bank


def own_calls(call: Callable[[], object]) -> int:
    """How many calls of functions of the library one call makes, those inside of backends aside."""
    own, count = str(Path(si.__file__).parent), 0

    def profile(frame: object, event: str, _: object) -> None:
        nonlocal count
        file = frame.f_code.co_filename
        backend = "/backends/" in file or file.endswith(("_compiled.py", "numba_differences.py"))
        count += event == "call" and file.startswith(own) and not backend

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_a_step_checks_its_arguments_once() -> None:
    """Public functions check and call what does the work; the library calls the latter."""
    sim = filled()
    source, (features, labels, logits) = batch(41, images=1), batch(42, images=1)
    assert own_calls(lambda: sim.update(*source)) <= 74
    assert own_calls(lambda: sim(features, logits, labels)) <= 102


# ------------------------------------------------------------------ broken input


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_lose_only_their_own_row_or_raise(value: float) -> None:
    def poisoned(maps: Tensor) -> Tensor:
        maps[1, 0, 0, 3] = value  # a pixel of road, the only stuff
        return maps

    maps = Maps()
    sim, clean, before = matching(), matching(), state(matching())
    sim.update(poisoned(maps.features), maps.labels, maps.logits)
    clean.update(maps.features, maps.labels, maps.logits)
    assert all(bank.features.isfinite().all() for bank in (sim.stuff_bank, sim.instance_bank))
    assert (sim.stuff_bank.written - before["stuff_bank.written"]).tolist() == [1]
    assert torch.equal(sim.instance_bank.written, clean.instance_bank.written)
    careful = matching(validate_args=True)
    for name, call in {
        "source_features": lambda: careful.update(poisoned(maps.features), maps.labels, maps.logits),
        "source_logits": lambda: careful.update(maps.features, maps.labels, poisoned(maps.logits)),
        "target_features": lambda: careful(poisoned(maps.features), maps.logits),
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            call()
    assert unchanged(careful, before)


def test_logits_that_are_not_numbers_are_of_no_class() -> None:
    sim, maps = matching(), Maps()
    before, nothing = state(sim), torch.full_like(maps.logits, torch.nan)
    sim.update(maps.features, maps.labels, nothing)
    assert unchanged(sim, before)
    assert sum(sim(maps.features, maps.logits)) > 0
    assert sum(sim(maps.features, nothing)) == 0


@pytest.mark.parametrize(("size", "warned"), [((128, 64), True), ((64, 128), False), ((60, 130), False)])
def test_labels_whose_height_and_width_are_swapped_are_warned_about(size: tuple[int, int], warned: bool) -> None:
    sim, features, labels = make(), torch.randn(1, 6, 8, 16), torch.zeros(1, *size, dtype=torch.long)
    logits = torch.randn(1, 5, 8, 16)
    calls: dict[str, Callable[[], object]] = {
        "source_labels": lambda: sim.update(features, labels, logits),
        "pseudo_labels": lambda: sim(features.requires_grad_(), logits, labels),
        "labels": lambda: sim.stuff_bank.update(features, labels),
    }
    for name, call in calls.items():
        said = pytest.warns(UserWarning, match=rf"^{name} .* have other proportions than .*swapped")
        with said if warned else nullcontext():
            call()


def test_nothing_right_changes_nothing() -> None:
    sim, (features, labels, logits) = filled(), batch(44)
    before = state(sim)
    sim.update(features, torch.full_like(labels, IGNORE), logits)
    sim.update(features, logits.argmax(1), logits.roll(1, 1))
    assert unchanged(sim, before)


def test_a_classifier_that_fails_leaves_both_banks_alone() -> None:
    calls: list[int] = []

    def only_stuff(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        if len(calls) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return torch.zeros(len(rows), 5)

    sim = make(classifier=only_stuff)
    before = state(sim)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"^out of memory$"):
        sim.update(*batch(45))
    assert len(calls) == 2
    assert unchanged(sim, before)


@pytest.mark.parametrize("head", [
    torch.nn.Conv2d(6, 5, 1), torch.nn.Linear(7, 5), torch.nn.Linear(6, 1), lambda rows: int(rows)
])  # fmt: skip
def test_a_classifier_that_cannot_take_rows_raises_and_changes_nothing(head: Callable[[Tensor], Tensor]) -> None:
    sim = make(classifier=head)
    before = state(sim)
    with pytest.raises(ValueError, match="classifier must"):
        sim.update(*batch(46))
    assert unchanged(sim, before)
