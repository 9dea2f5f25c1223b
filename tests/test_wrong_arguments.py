"""Every public call with one argument wrong: a result, or an error that names an argument and changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si
from tests.label_maps import IGNORE
from tests.public_calls import CALLS, NOT_CALLED, UNDEFINED, Maps
from tests.wrong_arguments import changed, fault_of, mutations, state_of

ARGUMENTS = {name: call.arguments(Maps()) for name, call in CALLS.items()}


def of_kind(kind: type) -> Any:
    """Calls and arguments whose right value is of exactly that type."""
    pairs = [(name, key) for name, given in ARGUMENTS.items() for key, value in given.items() if type(value) is kind]
    return pytest.mark.parametrize(("name", "argument"), pairs)


def run_with(name: str, argument: str, value: Any) -> Any:
    return CALLS[name].bound()(**{**ARGUMENTS[name], argument: value})


def test_every_public_name_is_called() -> None:
    assert {name.split(".")[0] for name in CALLS} | NOT_CALLED == set(si.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_an_error_that_names_it(name: str) -> None:
    call, undefined = CALLS[name], name in UNDEFINED
    inner = "probabilities" if name.startswith("OutputAdversarialLoss.") else "\0"  # of the caller's discriminator
    thing = call.make()
    assert fault_of(thing, call.method, ARGUMENTS[name], undefined=undefined) is None
    state, faults = state_of(thing), []
    for what, arguments in mutations(name, ARGUMENTS[name]):
        fault = fault_of(thing, call.method, arguments, inner, "e+30" in what or "1e30" in what, undefined)
        if fault is not None:
            faults.append(f"{what}: {fault}")
        if changed(thing, state):
            thing = call.make()
            state = state_of(thing)
    assert not faults, "\n".join(faults)


@of_kind(int)
def test_whole_numbers_are_of_any_integer_type_and_of_no_other(name: str, argument: str) -> None:
    right = ARGUMENTS[name][argument]
    for wrong in (True, np.bool_(True), float(right), np.float64(right), 254.9, str(right), torch.tensor([right])):
        with pytest.raises(TypeError, match=argument):
            run_with(name, argument, wrong)
    for kind in (np.int64, np.int16, torch.tensor):
        run_with(name, argument, kind(right))


@of_kind(float)
def test_numbers_are_neither_bools_nor_text(name: str, argument: str) -> None:
    right = ARGUMENTS[name][argument]
    for wrong in (True, np.bool_(True), str(right), complex(right), torch.tensor([right]), [right]):
        with pytest.raises(TypeError, match=argument):
            run_with(name, argument, wrong)
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=argument):
            run_with(name, argument, wrong)
    for kind in (np.float32, np.float64, torch.tensor):
        run_with(name, argument, kind(right))


@of_kind(bool)
def test_switches_are_true_or_false(name: str, argument: str) -> None:
    for wrong in (None, 0, 1, "off", torch.tensor(True)):
        with pytest.raises(TypeError, match=argument):
            run_with(name, argument, wrong)
    run_with(name, argument, np.bool_(ARGUMENTS[name][argument]))


@of_kind(str)
def test_choices_are_listed_where_one_is_unknown(name: str, argument: str) -> None:
    for wrong in (None, 0, "", ARGUMENTS[name][argument].upper(), ["auto"], torch.ones(2)):
        with pytest.raises((TypeError, ValueError), match=rf"{argument} must be .*, got"):
            run_with(name, argument, wrong)


NOTHING_IGNORED = {
    "connected_components", "instance_regions", "class_mix", "weighted_cross_entropy",
    "MeanIoU", "class_center_distance", "ClassCenterDistance", "count_class_pixels",
    "symmetric_cross_entropy",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, given in ARGUMENTS.items() if type(given.get("ignore_index")) is int])
def test_the_ignored_id_means_the_same_everywhere(name: str) -> None:
    maps = {key: value for key, value in ARGUMENTS[name].items() if is_label_map(value)}
    negative = {key: torch.where(value == IGNORE, -1, value) for key, value in maps.items()}
    CALLS[name].bound()(**{**ARGUMENTS[name], **negative, "ignore_index": -1})
    if name not in {"merge_pseudo_labels", "class_mix"}:  # which know no classes
        with pytest.raises(ValueError, match="ignore_index"):
            run_with(name, "ignore_index", 1)
    all_of_a_class = {key: value.clamp(max=1) for key, value in maps.items()}
    nothing_ignored = {**ARGUMENTS[name], **all_of_a_class, "ignore_index": None}
    if name in NOTHING_IGNORED:
        CALLS[name].bound()(**nothing_ignored)
    else:
        with pytest.raises(TypeError, match="ignore_index"):
            CALLS[name].bound()(**nothing_ignored)


def is_label_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64
