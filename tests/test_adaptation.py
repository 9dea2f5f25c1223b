"""StuffInstanceMatching: batches, saved state, copies, precisions, options, and how many calls a step makes."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests.label_maps import IGNORE, street

SMALL = si.LabelSpace(names=("a", "b", "c", "d", "e"), stuff=(0, 3), things=(1, 4))


def batch(seed: int, images: int = 3, size: tuple[int, int] = (9, 14), space: si.LabelSpace = SMALL, dim: int = 6):  # type: ignore[no-untyped-def]
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
    return si.StuffInstanceMatching(SMALL, 6, preset=preset, capacity=2, max_instances=3, **options)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_banks_after_a_batch_equal_those_after_its_images(preset: str) -> None:
    together, single = make(preset), make(preset)
    source = batch(21, images=5)
    together.update(*source)
    for b in range(5):
        single.update(*(x[b : b + 1] for x in source))
    for name, value in together.state_dict().items():
        torch.testing.assert_close(single.state_dict()[name], value)
    assert bool((together.stuff_bank.written > 2).any())


def test_names_sizes_and_defaults_of_the_contract() -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, feature_dim=8)
    assert isinstance(sim.stuff_bank, si.StuffBank)
    assert isinstance(sim.instance_bank, si.InstanceBank)
    assert isinstance(sim.stuff_loss, si.StuffMatchingLoss)
    assert isinstance(sim.instance_loss, si.InstanceMatchingLoss)
    assert {name: tuple(value.shape) for name, value in sim.named_buffers()} == {
        "stuff_bank.features": (8, 50, 8),
        "stuff_bank.written": (8,),
        "instance_bank.features": (11, 500, 8),
        "instance_bank.written": (11,),
    }
    losses = sim(torch.randn(1, 8, 4, 4), torch.randn(1, 19, 4, 4))
    assert losses._fields == ("stuff", "instance")
    assert not list(sim.parameters())


def test_presets_differ_as_stated() -> None:
    code, paper = make("code"), make("paper")
    source = batch(22, images=1)
    for sim in (code, paper):
        sim.update(*source)
    features, _, logits = batch(22, images=1)
    assert sum(code(features + 1, logits)).item() == 0  # still warming up
    assert sum(paper(features + 1, logits)).item() > 0
    with pytest.raises(ValueError, match=r"preset must be one of 'code', 'paper'.*'both'"):
        make("both")


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_saved_state_and_copies_continue_identically(preset: str) -> None:
    head = torch.nn.Linear(6, 5)
    sim = make(preset, classifier=head)
    for seed in range(4):
        sim.update(*batch(seed))
    file = io.BytesIO()
    torch.save(sim.state_dict(), file)
    file.seek(0)
    loaded = make(preset, classifier=head)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(sim)
    history = []
    for one in (sim, loaded, copied):
        values: list[Tensor] = []
        for seed in range(4, 9):
            one.update(*batch(seed))
            features, _, logits = batch(seed + 50)
            values += [*one(features, logits)]
        history.append(torch.stack([*values]))
        assert one.stuff_loss.bank is one.stuff_bank
        assert one.instance_loss.bank is one.instance_bank
    assert torch.equal(history[0], history[1])
    assert torch.equal(history[0], history[2])
    assert bool(history[0].any())


def test_the_module_can_be_sent_to_another_process() -> None:
    sim = filled()
    sent = pickle.loads(pickle.dumps(sim))
    features, _, logits = batch(29)
    assert torch.equal(torch.stack([*sent(features, logits)]), torch.stack([*sim(features, logits)]))
    assert sent.stuff_loss.bank is sent.stuff_bank


def test_a_copy_is_apart_from_its_original() -> None:
    sim = filled()
    copied = copy.deepcopy(sim)
    before = {name: value.clone() for name, value in sim.state_dict().items()}
    copied.update(*batch(30))
    assert all(torch.equal(before[name], value) for name, value in sim.state_dict().items())
    assert not torch.equal(copied.stuff_bank.written, sim.stuff_bank.written)


def test_forward_reads_and_only_update_writes() -> None:
    sim = filled()
    before = {name: value.clone() for name, value in sim.state_dict().items()}
    features, _, logits = batch(31)
    losses = sim(features.requires_grad_(), logits)
    (losses.stuff + losses.instance).backward()
    assert all(torch.equal(before[name], value) for name, value in sim.state_dict().items())


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
        before = {name: value.clone() for name, value in sim.state_dict().items()}
        sim.update(features.detach(), labels, logits)
        assert all(torch.equal(before[name], value) for name, value in sim.state_dict().items())


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


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_bfloat16_autocast_is_within_a_hundredth(preset: str) -> None:
    dim, space = 64, si.CITYSCAPES
    sim = si.StuffInstanceMatching(space, dim, preset=preset, capacity=1, max_instances=4)  # type: ignore[arg-type]
    for seed in range(4):
        sim.update(*street_batch(seed, dim))
    features, _, logits = street_batch(9, dim)
    expected = sim(features, logits)
    with torch.autocast("cpu", torch.bfloat16):
        plain, rounded = sim(features, logits), sim(features.bfloat16(), logits.bfloat16().float())
    for kind in ("stuff", "instance"):
        assert getattr(expected, kind).item() > 0
        assert getattr(plain, kind).item() == pytest.approx(getattr(expected, kind).item(), rel=0.01)
        assert getattr(rounded, kind).dtype == torch.float32
    assert rounded.stuff.item() == pytest.approx(expected.stuff.item(), rel=0.01)


def street_batch(seed: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    labels = street(30, 54, seed, batch=2)
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.where(labels == IGNORE, 0, labels)
    logits = 9 * torch.nn.functional.one_hot(wanted, 19).movedim(3, 1).float()
    return torch.randn(2, dim, 30, 54, generator=generator), labels, logits


def test_double_precision_all_through() -> None:
    sim = filled().double()
    features, _, logits = batch(37)
    features = features.double().requires_grad_()
    losses = sim(features, logits.double())
    assert losses.stuff.dtype == torch.float64
    crop, scores = features[:, :, :4, :5].detach().requires_grad_(), logits[:, :, :4, :5]
    assert torch.autograd.gradcheck(lambda f: tuple(sim(f, scores)), (crop,))


def test_pseudo_labels_change_what_is_matched() -> None:
    sim = filled()
    features, labels, logits = batch(38)
    nothing = torch.full_like(labels, IGNORE)
    plain = sim(features, logits)
    assert torch.equal(torch.stack(sim(features, logits, nothing)), torch.stack(plain))
    relabeled = sim(features, logits, torch.full_like(labels, 3))
    assert relabeled.instance.item() == 0
    assert relabeled.stuff.item() > 0


def test_classifier_weights_are_not_saved_with_the_banks() -> None:
    sim = make(classifier=torch.nn.Linear(6, 5))
    assert set(sim.state_dict()) == set(make().state_dict())
    assert not list(sim.parameters())


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


def test_banks_of_the_facade_know_the_names_of_the_space() -> None:
    sim = filled()
    assert torch.equal(sim.stuff_bank.rows("d"), sim.stuff_bank.rows(3))
    assert "d: 2" in repr(sim)


def own_calls(call: Callable[[], object]) -> int:
    """How many calls of functions of the library one call makes."""
    own, count = str(Path(si.__file__).parent), 0

    def profile(frame: object, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(own)  # type: ignore[attr-defined]

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
    assert own_calls(lambda: sim.update(*source)) <= 62
    assert own_calls(lambda: sim(features, logits, labels)) <= 80
