"""State of every stateful module: meta device, dtypes, reset, copies, saving and loading, and what cannot be loaded."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import stuffinstance as si
from tests.distributed.process_groups import group_of_one
from tests.public_calls import CALLS, SPACE, D, K, Maps


class Case(NamedTuple):
    """How to make a module, and what makes one of another state, in its own words."""

    kind: Callable[..., Any]
    settings: dict[str, Any]
    other: dict[str, Any]

    def make(self, **more: Any) -> Any:
        return self.kind(**{**self.settings, **more})

    def fed(self) -> Any:
        module = self.make()
        feed(module)
        return module


def feed(module: Any) -> None:
    module.update(**CALLS[f"{type(module).__name__}.update"].arguments(Maps()))


def symmetric(num_classes: int, **ranks: Any) -> si.SymmetricConsistency:
    return si.SymmetricConsistency(si.ClassBalancedThreshold(num_classes, **ranks))


CASES = {
    "StuffBank": Case(si.StuffBank, {"classes": (2, 0), "feature_dim": D, "capacity": 5}, {"classes": (0, 1)}),
    "InstanceBank": Case(si.InstanceBank, {"classes": (1, 2), "feature_dim": D, "capacity": 5}, {"capacity": 6}),
    "StuffInstanceMatching": Case(
        si.StuffInstanceMatching,
        {"space": SPACE, "feature_dim": D, "preset": "paper", "capacity": 3, "max_instances": 2},
        {"feature_dim": 5},
    ),
    "CategoryAnchors": Case(
        si.CategoryAnchors, {"num_classes": K, "feature_dim": D, "min_pixels": 1}, {"feature_dim": 5}
    ),
    "ClassDistributions": Case(si.ClassDistributions, {"num_classes": K, "feature_dim": D}, {"feature_dim": 5}),
    "ClassBalancedThreshold": Case(si.ClassBalancedThreshold, {"num_classes": K}, {"bins": 100}),
    "CBSTThreshold": Case(si.CBSTThreshold, {"num_classes": K}, {"bins": 100}),
    "IASTThreshold": Case(si.IASTThreshold, {"num_classes": K}, {"num_classes": 4}),
    "SymmetricConsistency": Case(symmetric, {"num_classes": K}, {"num_classes": 4}),
    "MeanIoU": Case(si.MeanIoU, {"num_classes": K}, {"num_classes": 4}),
    "ClassCenterDistance": Case(si.ClassCenterDistance, {"num_classes": K, "feature_dim": D}, {"feature_dim": 5}),
    "PredictionEntropy": Case(si.PredictionEntropy, {"num_classes": K}, {"num_classes": 4}),
    "SoftNeighborhoodDensity": Case(si.SoftNeighborhoodDensity, {"sample": 50}, {"sample": 60}),
}
every = pytest.mark.parametrize("name", CASES)


def bits(module: nn.Module) -> dict[str, tuple[str, bytes]]:
    """The state to the bit, with its dtypes; class ids too, which no state dict needs to hold."""
    found = {name: (str(each.dtype), each.numpy().tobytes()) for name, each in module.state_dict().items()}
    for name, each in module.named_modules():
        if isinstance(each, si.StuffBank | si.InstanceBank):
            found[f"{name}._class_ids"] = (str(each._class_ids.dtype), each._class_ids.numpy().tobytes())
    return found


def spoil(module: nn.Module) -> None:
    """What memory that was never written may hold."""
    for buffer in module.buffers():
        buffer.view(torch.uint8).fill_(0x55)


def on_meta(case: Case) -> Any:
    with torch.device("meta"):
        return case.make()


def test_every_stateful_module_of_the_package_has_a_case() -> None:
    stateful = {name for name in si.__all__ if hasattr(getattr(si, name), "reset_parameters")}
    assert stateful - {"PseudoLabelThreshold"} == set(CASES)


# ------------------------------------------------------------------ start and meta device


@every
@pytest.mark.parametrize("method", ["reset", "reset_parameters"])
def test_reset_goes_back_to_the_state_after_construction(name: str, method: str) -> None:
    module = CASES[name].fed()
    assert bits(module) != bits(CASES[name].make())
    getattr(module, method)()
    assert bits(module) == bits(CASES[name].make())
    feed(module)
    assert bits(module) == bits(CASES[name].fed())


@every
def test_made_on_meta_or_moved_there_it_becomes_as_after_construction(name: str) -> None:
    case = CASES[name]
    moved = case.fed().to("meta")
    assert all(buffer.is_meta for buffer in moved.buffers())
    for module in (moved, on_meta(case)):
        module.to_empty(device="cpu")
        assert bits(module) == bits(case.make())
        feed(module)
        assert bits(module) == bits(case.fed())
        assert bits(module.to_empty(device="cpu")) == bits(case.fed())  # a real one keeps its state


@every
def test_uninitialized_memory_is_loaded_assigned_or_reset(name: str) -> None:
    case = CASES[name]
    module, saved = on_meta(case).to_empty(device="cpu"), case.fed().state_dict()
    spoil(module)
    module.load_state_dict(saved)
    assert bits(module) == bits(case.fed())
    spoil(module)
    module.reset_parameters()
    assert bits(module) == bits(case.make())
    assigned, again = on_meta(case), case.fed()
    assigned.load_state_dict(copy.deepcopy(saved), assign=True)
    for each in (assigned, again):
        feed(each)
    assert bits(assigned) == bits(again)


# ------------------------------------------------------------------ dtypes


@every
def test_conversions_leave_the_state(name: str) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for convert in (lambda m, d=dtype: m.to(d), lambda m, d=dtype: m.to("cpu", d), lambda m: m.half()):
            outer = nn.ModuleDict({"state": CASES[name].fed(), "layer": nn.Linear(1, 1)})
            convert(outer)
            assert outer["layer"].weight.dtype != torch.float32
            assert bits(outer["state"]) == bits(CASES[name].fed())


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(name: str, dtype: torch.dtype) -> None:
    expected, inputs = bits(CASES[name].fed()), CALLS[f"{name}.update"].arguments(Maps())
    torch.set_default_dtype(dtype)
    try:
        module = CASES[name].make()
        module.update(**inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    assert bits(module) == expected


@every
def test_a_state_in_half_precision_is_loaded_into_the_modules_own(name: str) -> None:
    case = CASES[name]
    saved = {key: each.half() if each.is_floating_point() else each for key, each in case.fed().state_dict().items()}
    for assign in (False, True):
        module = case.make()
        module.load_state_dict(saved, assign=assign)
        assert {key: each[0] for key, each in bits(module).items()} == {
            key: each[0] for key, each in bits(case.make()).items()
        }


# ------------------------------------------------------------------ copies, saving, loading


def reloaded(module: Any, case: Case) -> Any:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = case.make()
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@every
def test_copies_pickles_and_loaded_states_go_on_alike(name: str) -> None:
    case = CASES[name]
    module, again = case.fed(), case.fed()
    feed(again)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), reloaded(module, case)):
        assert bits(other) == bits(module)
        feed(other)
        assert bits(other) == bits(again)
    assert bits(module) == bits(case.fed())


@every
def test_missing_and_unexpected_keys_are_reported_and_nothing_is_loaded(name: str) -> None:
    case = CASES[name]
    for missing in case.make().state_dict():
        saved = {key: each for key, each in case.fed().state_dict().items() if key != missing}
        module = case.make()
        with pytest.raises(RuntimeError, match=re.escape(f'Missing key(s) in state_dict: "{missing}"')):
            module.load_state_dict(saved)
        assert bits(module) == bits(case.make())
    module = case.make()
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "more"'):
        module.load_state_dict({**case.fed().state_dict(), "more": torch.zeros(1)})
    assert list(module.load_state_dict({}, strict=False).missing_keys) == list(module.state_dict())


@every
def test_a_state_of_another_kind_is_an_error_that_names_both_and_changes_nothing(name: str) -> None:
    case = CASES[name]
    module, key = case.fed(), next(key for key in case.make().state_dict() if key.endswith("_extra_state"))
    ((setting, value),) = case.other.items()
    value = list(value) if isinstance(value, tuple) else value
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=f"{setting}=.*got one of .*{re.escape(f'{setting}={value}')}"):
            module.load_state_dict(case.make(**case.other).state_dict(), strict=strict)
    short = case.fed().state_dict()[key][:20]
    for wrong in (torch.zeros(4), torch.zeros(3, dtype=torch.uint8), short, torch.full((64,), 255, dtype=torch.uint8)):
        with pytest.raises(RuntimeError, match=r"_extra_state must be what .*state_dict\(\) gave, got"):
            module.load_state_dict({**case.make().state_dict(), key: wrong})
    assert bits(module) == bits(case.fed())


def test_counts_of_another_module_raise() -> None:
    with pytest.raises(RuntimeError, match=r"state of MeanIoU must be .*confusion.*got one of .*fixed"):
        si.MeanIoU(3).load_state_dict(si.IASTThreshold(3).state_dict())
    bank = si.StuffBank((0,), 4, 5)
    with pytest.raises(RuntimeError, match=r"size mismatch for features: the state of StuffBank .*\(1, 5, 4\), got"):
        bank.load_state_dict({**bank.state_dict(), "features": torch.zeros(1, 5, 3)})


def test_counts_are_not_buffers_and_move_with_the_module() -> None:
    for name in ("MeanIoU", "ClassBalancedThreshold", "IASTThreshold", "PredictionEntropy", "ClassCenterDistance"):
        assert not list(CASES[name].make().buffers())
    assert CASES["MeanIoU"].fed().to("meta").confusion.is_meta
    assert CASES["MeanIoU"].fed().share_memory().confusion.is_shared()
    assert CASES["StuffBank"].fed().share_memory().features.is_shared()


# ------------------------------------------------------------------ banks of other classes


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", [si.StuffBank, si.InstanceBank])
def test_rows_go_to_their_classes_whatever_the_order(kind: Any, assign: bool) -> None:
    old, new = kind((0, 1, 2), D, 5), kind((2, 0, 1), D, 5)
    feed(old)
    new.load_state_dict(old.state_dict(), assign=assign)
    for place, c in enumerate(new.classes):
        assert torch.equal(new.features[place], old.features[c])
        assert new.written[place] == old.written[c]
    assert new._class_ids.tolist() == [2, 0, 1]
    feed(old)
    feed(new)
    assert torch.equal(new.features, old.features[[2, 0, 1]])
    with pytest.raises(RuntimeError, match=r"classes=\[2, 0, 1\].*classes=\[0, 1, 2\].*load_state_dict"):
        new.set_extra_state(old.get_extra_state())


def test_a_matching_of_another_split_raises_and_changes_nothing() -> None:
    other = si.LabelSpace(names=SPACE.names, stuff=SPACE.stuff, things=(1,))
    case = CASES["StuffInstanceMatching"]
    module, state = case.make(), case.make(space=other)
    feed(state)
    assert state.stuff_bank.written.any()
    before = bits(module)
    with pytest.raises(RuntimeError, match=r"instance_bank.*\[1, 2\].*\[1\]"):
        module.load_state_dict(state.state_dict())
    assert bits(module) == before
    outer, held = nn.ModuleDict({"m": module}), nn.ModuleDict({"m": state})
    with pytest.raises(RuntimeError, match=r"m\.instance_bank.*\[1, 2\].*\[1\]"):
        outer.load_state_dict(held.state_dict())
    assert bits(module) == before


# ------------------------------------------------------------------ averaging


def averaged(use_buffers: bool, steps: int = 4) -> tuple[si.StuffBank, si.StuffBank]:
    bank = si.StuffBank((0, 1, 2), D, 50)
    network = nn.ModuleDict({"layer": nn.Linear(2, 2), "bank": bank})
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    for _ in range(steps):
        feed(bank)
        average.update_parameters(network)
    return bank, average.module["bank"]


def test_an_average_of_weights_copies_banks_where_it_leaves_buffers() -> None:
    bank, copied = averaged(use_buffers=False)
    assert bits(copied) == bits(bank)
    feed(copied)


def test_an_averaged_bank_is_an_error_with_its_remedy() -> None:
    _, spoilt = averaged(use_buffers=True)
    with pytest.raises(RuntimeError, match=r"cannot be averaged.*use_buffers=False"):
        feed(spoilt)
    spoilt.reset()
    feed(spoilt)


def test_an_average_of_weights_does_not_touch_counts() -> None:
    network = nn.ModuleDict({"layer": nn.Linear(2, 2), "score": CASES["MeanIoU"].fed()})
    average = AveragedModel(network, use_buffers=True)
    feed(network["score"])
    average.update_parameters(network)
    assert bits(average.module["score"]) == bits(CASES["MeanIoU"].fed())


# ------------------------------------------------------------------ transformers


def models() -> tuple[Any, Any]:
    """Classes of a model without and with every stateful module."""
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("from_pretrained makes models on the meta device from version 5 on")

    class Config(transformers.PretrainedConfig):
        model_type = "with_state"

    class Plain(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.head = nn.Conv2d(D, K, 1)
            self.post_init()

    class WithState(Plain):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for name, case in CASES.items():
                setattr(self, name, case.make())
            self.post_init()

    return Plain(Config()), WithState


@pytest.fixture
def junk() -> None:
    """Memory that is not zero, to be found uninitialized."""
    held = [torch.full((4096,), 7.0) for _ in range(500)]
    del held


@pytest.mark.usefixtures("junk")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pretrained_without_and_with_the_state(tmp_path: Path, dtype: torch.dtype) -> None:
    plain, kind = models()
    plain.save_pretrained(tmp_path / "plain")
    model = kind.from_pretrained(tmp_path / "plain", dtype=dtype)
    assert model.head.weight.dtype == dtype
    for name, case in CASES.items():
        assert bits(getattr(model, name)) == bits(case.make()), name
        feed(getattr(model, name))
        assert bits(getattr(model, name)) == bits(case.fed()), name
    model.save_pretrained(tmp_path / "own")
    again = kind.from_pretrained(tmp_path / "own", dtype=dtype)
    for name, case in CASES.items():
        assert bits(getattr(again, name)) == bits(case.fed()), name


# ------------------------------------------------------------------ groups


@every
def test_a_group_is_shared_by_copies_and_never_pickled(name: str, tmp_path: Path) -> None:
    def group_of(module: Any) -> Any:
        part = {"StuffInstanceMatching": "stuff_bank", "SymmetricConsistency": "rule"}.get(name)
        return (getattr(module, part) if part else module).group

    with group_of_one(tmp_path):
        share_and_pickle(CASES[name].make, group_of)


def share_and_pickle(make: Callable[..., Any], group_of: Callable[[Any], Any]) -> None:
    group = torch.distributed.new_group([0])
    module = make(group=group)
    assert group_of(module) is group
    assert group_of(copy.deepcopy(module)) is group
    with pytest.raises(TypeError, match="group must be None for a module that is pickled"):
        pickle.dumps(module)
    assert group_of(make(group=None)) is None
    with pytest.raises(TypeError, match="group must be a torch"):
        make(group=[0, 1])
    with pytest.raises(ValueError, match="group must be a process group that this rank is in"):
        make(group=torch.distributed.GroupMember.NON_GROUP_MEMBER)
