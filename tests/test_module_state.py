"""State of every stateful module: meta device, dtypes, reset, copies, saving and loading, and what cannot be loaded."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stuffinstance as si
from stuffinstance.pseudo_labels import threshold as confidences
from tests.distributed.process_groups import group_of_one

K, D = 3, 4
Feed = Callable[[Any], object]
SPACE = si.LabelSpace(names=("a", "b", "c"), stuff=(0, 2), things=(1,))


def probabilities() -> Tensor:
    return (3 * torch.randn(2, K, 6, 7, generator=torch.Generator().manual_seed(1))).softmax(1)


def features_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, D, 6, 7, generator=generator), torch.randint(0, K, (2, 6, 7), generator=generator)


def feed_maps(module: Any) -> None:
    module.update(*features_and_labels())


def feed_probabilities(module: Any) -> None:
    module.update(probabilities())


def feed_labels(module: Any) -> None:
    module.update(probabilities(), features_and_labels()[1])


def feed_two(module: Any) -> None:
    module.update(probabilities(), probabilities().flip(3))


def feed_matching(module: Any) -> None:
    features, labels = features_and_labels()
    module.update(features, labels, nn.functional.one_hot(labels, module.space.num_classes).movedim(3, 1).float())


class Case:
    """How to make a module and how to feed it, another one of the same state, and one of another size."""

    def __init__(self, make: Callable[..., Any], feed: Feed, other: dict[str, Any], message: str) -> None:
        self.make, self.feed, self.other, self.message = make, feed, other, message

    def fed(self) -> Any:
        module = self.make()
        self.feed(module)
        return module


def symmetric(num_classes: int = K) -> si.SymmetricConsistency:
    return si.SymmetricConsistency(si.ClassBalancedThreshold(num_classes))


def matching(feature_dim: int = D, space: si.LabelSpace = SPACE) -> si.StuffInstanceMatching:
    return si.StuffInstanceMatching(space, feature_dim, preset="paper", capacity=3, max_instances=2)


def with_classes(kind: Any, classes: tuple[int, ...]) -> Callable[..., Any]:
    def make(classes: tuple[int, ...] = classes, feature_dim: int = D, capacity: int = 5) -> Any:
        return kind(classes, feature_dim, capacity)

    return make


def sized(kind: Any, *sizes: int) -> Callable[..., Any]:
    def make(*given: int, **options: Any) -> Any:
        return kind(*(given or sizes), **options)

    return make


CASES = {
    "StuffBank": Case(with_classes(si.StuffBank, (2, 0)), feed_maps, {"classes": (0, 1)}, r"\[2, 0\].*\[0, 1\]"),
    "InstanceBank": Case(with_classes(si.InstanceBank, (1, 2)), feed_maps, {"capacity": 6}, "capacity=5.*capacity=6"),
    "StuffInstanceMatching": Case(matching, feed_matching, {"feature_dim": 5}, "feature_dim=4.*feature_dim=5"),
    "CategoryAnchors": Case(
        lambda feature_dim=D: si.CategoryAnchors(K, feature_dim, min_pixels=1),
        feed_maps,
        {"feature_dim": 5},
        "feature_dim=4.*feature_dim=5",
    ),
    "ClassBalancedThreshold": Case(
        sized(si.ClassBalancedThreshold, K), feed_probabilities, {"bins": 100}, "bins=65536.*bins=100"
    ),
    "CBSTThreshold": Case(sized(si.CBSTThreshold, K), feed_probabilities, {"bins": 100}, "bins=65536.*bins=100"),
    "IASTThreshold": Case(
        lambda num_classes=K: si.IASTThreshold(num_classes),
        feed_probabilities,
        {"num_classes": 4},
        "num_classes=3.*num_classes=4",
    ),
    "SymmetricConsistency": Case(symmetric, feed_two, {"num_classes": 4}, "num_classes=3.*num_classes=4"),
    "MeanIoU": Case(
        lambda num_classes=K: si.MeanIoU(num_classes),
        feed_labels,
        {"num_classes": 4},
        "num_classes=3.*num_classes=4",
    ),
    "ClassCenterDistance": Case(
        lambda feature_dim=D: si.ClassCenterDistance(K, feature_dim),
        feed_maps,
        {"feature_dim": 5},
        "feature_dim=4.*feature_dim=5",
    ),
    "PredictionEntropy": Case(
        lambda num_classes=K: si.PredictionEntropy(num_classes),
        feed_probabilities,
        {"num_classes": 4},
        "num_classes=3.*num_classes=4",
    ),
    "SoftNeighborhoodDensity": Case(
        lambda sample=50: si.SoftNeighborhoodDensity(sample=sample),
        feed_probabilities,
        {"sample": 60},
        "sample=50.*sample=60",
    ),
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
    CASES[name].feed(module)
    assert bits(module) == bits(CASES[name].fed())


@every
def test_made_on_meta_and_made_real_it_is_as_after_construction(name: str) -> None:
    module = on_meta(CASES[name]).to_empty(device="cpu")
    assert bits(module) == bits(CASES[name].make())
    CASES[name].feed(module)
    assert bits(module) == bits(CASES[name].fed())


@every
def test_moved_to_meta_and_back_it_is_as_after_construction(name: str) -> None:
    module = CASES[name].fed().to("meta")
    assert all(buffer.is_meta for buffer in module.buffers())
    assert bits(module.to_empty(device="cpu")) == bits(CASES[name].make())


@every
def test_uninitialized_memory_is_reset_or_loaded(name: str) -> None:
    case = CASES[name]
    module, saved = on_meta(case).to_empty(device="cpu"), case.fed().state_dict()
    spoil(module)
    module.load_state_dict(saved)
    assert bits(module) == bits(case.fed())
    spoil(module)
    module.reset_parameters()
    assert bits(module) == bits(case.make())


@every
def test_assigned_state_replaces_meta(name: str) -> None:
    case = CASES[name]
    module = on_meta(case)
    module.load_state_dict(case.fed().state_dict(), assign=True)
    assert bits(module) == bits(case.fed())
    case.feed(module)
    again = case.fed()
    case.feed(again)
    assert bits(module) == bits(again)


@every
def test_a_real_module_keeps_its_state_when_it_is_emptied(name: str) -> None:
    module = CASES[name].fed()
    assert bits(module.to_empty(device="cpu")) == bits(CASES[name].fed())


# ------------------------------------------------------------------ dtypes


CONVERSIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "double": lambda module: module.double(),
    "to": lambda module: module.to(torch.float16),
    "to_device_and_dtype": lambda module: module.to("cpu", torch.bfloat16),
}


@every
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_conversions_leave_the_state(name: str, conversion: str) -> None:
    outer = nn.ModuleDict({"state": CASES[name].fed(), "layer": nn.Linear(1, 1)})
    CONVERSIONS[conversion](outer)
    assert next(outer["layer"].parameters()).dtype != torch.float32
    assert bits(outer["state"]) == bits(CASES[name].fed())


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(name: str, dtype: torch.dtype) -> None:
    expected = bits(CASES[name].fed())
    maps = features_and_labels(), probabilities()
    torch.set_default_dtype(dtype)
    try:
        module = CASES[name].make()
        with pytest.MonkeyPatch.context() as patch:  # inputs as before: only the module lives under the default
            patch.setitem(globals(), "features_and_labels", lambda: maps[0])
            patch.setitem(globals(), "probabilities", lambda: maps[1])
            CASES[name].feed(module)
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
        assert {key: each.dtype for key, each in module.state_dict().items()} == {
            key: each.dtype for key, each in case.make().state_dict().items()
        }


# ------------------------------------------------------------------ copies, saving, loading


@every
def test_copies_and_pickles_go_on_alike(name: str) -> None:
    case = CASES[name]
    module, again = case.fed(), case.fed()
    case.feed(again)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert bits(other) == bits(module)
        case.feed(other)
        assert bits(other) == bits(again)
    assert bits(module) == bits(case.fed())


@every
def test_a_saved_state_is_read_without_code(name: str) -> None:
    case, file = CASES[name], io.BytesIO()
    torch.save(case.fed().state_dict(), file)
    file.seek(0)
    module = case.make()
    module.load_state_dict(torch.load(file, weights_only=True))
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
def test_a_state_of_another_size_is_an_error_that_names_both_and_changes_nothing(name: str) -> None:
    case = CASES[name]
    module = case.fed()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=case.message) as caught:
            module.load_state_dict(case.make(**case.other).state_dict(), strict=strict)
        assert "Build the module with the settings of the state" in str(caught.value)
        assert bits(module) == bits(case.fed())


@every
def test_what_is_not_such_a_state_is_an_error(name: str) -> None:
    case = CASES[name]
    key = next(key for key in case.make().state_dict() if key.endswith("_extra_state"))
    short = case.fed().state_dict()[key][:20]
    for wrong in (torch.zeros(4), torch.zeros(3, dtype=torch.uint8), short, torch.full((64,), 255, dtype=torch.uint8)):
        module = case.fed()
        with pytest.raises(RuntimeError, match=r"_extra_state must be what .*state_dict\(\) gave, got"):
            module.load_state_dict({**case.make().state_dict(), key: wrong})
        assert bits(module) == bits(case.fed())


def test_counts_of_another_kind_raise() -> None:
    with pytest.raises(RuntimeError, match=r"state of MeanIoU must be .*confusion.*got one of .*fixed"):
        si.MeanIoU(3).load_state_dict(si.IASTThreshold(3).state_dict())
    bank = si.StuffBank((0,), 4, 5)
    with pytest.raises(RuntimeError, match=r"size mismatch for features: the state of StuffBank .*\(1, 5, 4\), got"):
        bank.load_state_dict({**bank.state_dict(), "features": torch.zeros(1, 5, 3)})


def test_counts_are_not_buffers_and_move_with_the_module() -> None:
    for name in ("MeanIoU", "ClassBalancedThreshold", "IASTThreshold", "PredictionEntropy", "ClassCenterDistance"):
        assert not list(CASES[name].make().buffers())
    score = CASES["MeanIoU"].fed()
    assert score.to("meta").confusion.is_meta
    shared = CASES["MeanIoU"].fed().share_memory()
    assert shared.confusion.is_shared()
    assert CASES["StuffBank"].fed().share_memory().features.is_shared()


# ------------------------------------------------------------------ banks of other classes


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", [si.StuffBank, si.InstanceBank])
def test_rows_go_to_their_classes_whatever_the_order(kind: Any, assign: bool) -> None:
    old, new = kind((0, 1, 2), D, 5), kind((2, 0, 1), D, 5)
    feed_maps(old)
    new.load_state_dict(old.state_dict(), assign=assign)
    for place, c in enumerate(new.classes):
        assert torch.equal(new.features[place], old.features[c])
        assert new.written[place] == old.written[c]
    assert new._class_ids.tolist() == [2, 0, 1]
    feed_maps(old)
    feed_maps(new)
    assert torch.equal(new.features, old.features[[2, 0, 1]])
    with pytest.raises(RuntimeError, match=r"classes=\[2, 0, 1\].*classes=\[0, 1, 2\].*load_state_dict"):
        new.set_extra_state(old.get_extra_state())


def test_a_matching_of_another_split_raises_and_changes_nothing() -> None:
    space = si.LabelSpace(names=("a", "b", "c", "d"), stuff=(0, 2), things=(1, 3))
    other = si.LabelSpace(names=("a", "b", "c", "d"), stuff=(2, 0), things=(1,))
    module, state = matching(space=space), matching(space=other)
    feed_matching(state)
    assert state.stuff_bank.written.any()
    before = bits(module)
    with pytest.raises(RuntimeError, match=r"instance_bank.*\[1, 3\].*\[1\]"):  # the stuff classes are the same
        module.load_state_dict(state.state_dict())
    assert bits(module) == before
    outer, held = nn.ModuleDict({"m": module}), nn.ModuleDict({"m": state})
    with pytest.raises(RuntimeError, match=r"m\.instance_bank.*\[1, 3\].*\[1\]"):
        outer.load_state_dict(held.state_dict())
    assert bits(module) == before


# ------------------------------------------------------------------ averaging


def averaged(use_buffers: bool, steps: int = 4) -> tuple[si.StuffBank, si.StuffBank]:
    bank = si.StuffBank((0, 1, 2), D, 50)
    network = nn.ModuleDict({"layer": nn.Linear(2, 2), "bank": bank})
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    for _ in range(steps):
        feed_maps(bank)
        average.update_parameters(network)
    return bank, average.module["bank"]


def test_an_average_of_weights_copies_banks_where_it_leaves_buffers() -> None:
    bank, copied = averaged(use_buffers=False)
    assert bits(copied) == bits(bank)
    feed_maps(copied)


def test_an_averaged_bank_is_an_error_with_its_remedy() -> None:
    _, spoilt = averaged(use_buffers=True)
    with pytest.raises(RuntimeError, match=r"cannot be averaged.*use_buffers=False"):
        feed_maps(spoilt)
    spoilt.reset()
    feed_maps(spoilt)


def test_an_average_of_weights_does_not_touch_counts() -> None:
    network = nn.ModuleDict({"layer": nn.Linear(2, 2), "score": CASES["MeanIoU"].fed()})
    average = AveragedModel(network, use_buffers=True)
    feed_labels(network["score"])
    average.update_parameters(network)
    assert bits(average.module["score"]) == bits(CASES["MeanIoU"].fed())


# ------------------------------------------------------------------ no float64 on the device


class Dtypes(TorchDispatchMode):
    """Notes every operation that gives float64."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        self.found += [
            str(function) for each in tree_leaves(out) if isinstance(each, Tensor) and each.dtype == torch.float64
        ]
        return out


@every
def test_no_operation_makes_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidences, "may_read", lambda *_: False)  # the look at a sample of values on the CPU
    with Dtypes() as seen:
        module = CASES[name].fed()
        for method in ("compute", "counts"):
            if hasattr(module, method):
                getattr(module, method)()
        if hasattr(module, "merge") and name != "IASTThreshold":
            module.merge(CASES[name].fed())
        module.load_state_dict(module.state_dict())
    assert seen.found == []


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
        case.feed(getattr(model, name))
        assert bits(getattr(model, name)) == bits(case.fed()), name
    model.save_pretrained(tmp_path / "own")
    again = kind.from_pretrained(tmp_path / "own", dtype=dtype)
    for name, case in CASES.items():
        assert bits(getattr(again, name)) == bits(case.fed()), name


# ------------------------------------------------------------------ groups


GROUPED = {
    "StuffBank": lambda group: si.StuffBank((0,), 2, group=group),
    "InstanceBank": lambda group: si.InstanceBank((0,), 2, group=group),
    "StuffInstanceMatching": lambda group: si.StuffInstanceMatching(SPACE, 2, group=group).stuff_bank,
    "CategoryAnchors": lambda group: si.CategoryAnchors(2, 2, group=group),
    "ClassBalancedThreshold": lambda group: si.ClassBalancedThreshold(2, group=group),
    "CBSTThreshold": lambda group: si.CBSTThreshold(2, group=group),
    "IASTThreshold": lambda group: si.IASTThreshold(2, group=group),
    "MeanIoU": lambda group: si.MeanIoU(2, group=group),
    "ClassCenterDistance": lambda group: si.ClassCenterDistance(2, 2, group=group),
    "PredictionEntropy": lambda group: si.PredictionEntropy(2, group=group),
    "SoftNeighborhoodDensity": lambda group: si.SoftNeighborhoodDensity(group=group),
}


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_is_shared_by_copies_and_never_pickled(name: str, tmp_path: Path) -> None:
    assert set(GROUPED) | {"SymmetricConsistency"} == set(CASES)  # which has its rule's
    with group_of_one(tmp_path):
        _share_and_pickle(name)


def _share_and_pickle(name: str) -> None:
    dist = torch.distributed
    group = dist.new_group([0])
    module = GROUPED[name](group)
    assert module.group is group
    assert copy.deepcopy(module).group is group
    with pytest.raises(TypeError, match=r"group must be None for a module that is pickled.*state_dict\(\)"):
        pickle.dumps(module)
    assert GROUPED[name](None).group is None
    pickle.dumps(GROUPED[name](None))
    with pytest.raises(TypeError, match=r"group must be a torch.distributed process group.*got list"):
        GROUPED[name]([0, 1])
    with pytest.raises(ValueError, match=r"group must be a process group that this rank is in"):
        GROUPED[name](dist.GroupMember.NON_GROUP_MEMBER)
