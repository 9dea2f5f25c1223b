"""Every public object explains itself with an example that runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import types

import pytest
import torch

import stuffinstance
from stuffinstance import plotting

MODULES = sorted({"stuffinstance", *(m.name for m in pkgutil.walk_packages(stuffinstance.__path__, "stuffinstance."))})
CALLABLES = {
    name: thing
    for room in (stuffinstance, plotting)
    for name in room.__all__
    if inspect.isfunction(thing := getattr(room, name)) or inspect.isclass(thing)
}
OPTIONAL_PACKAGES = {"numba", "triton"}
# Results and errors.
WITHOUT_EXAMPLE = {
    "BackendUnavailableError",
    "IoU",
    "Matches",
    "MatchingLosses",
    "ClassMixOutput",
    "Regions",
    "FusedPrediction",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL_PACKAGES:
            raise
        pytest.skip(f"needs {error.name}")
    assert module.__doc__, f"{name} needs a module docstring that says why"
    names = {**vars(stuffinstance), **vars(module), "torch": torch, "si": stuffinstance}
    torch.manual_seed(0)
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", CALLABLES)
def test_public_objects_have_an_example(name: str) -> None:
    text = inspect.getdoc(CALLABLES[name]) or ""
    assert text
    if name not in WITHOUT_EXAMPLE:
        assert "Example:" in text
        assert ">>>" in text


@pytest.mark.parametrize("name", [n for n in CALLABLES if n not in WITHOUT_EXAMPLE])
def test_every_argument_is_explained(name: str) -> None:
    thing = CALLABLES[name]
    text = inspect.getdoc(thing) or ""
    for parameter in inspect.signature(thing).parameters:
        assert re.search(rf"^\s*{parameter}\b.*:", text, re.MULTILINE), f"{name}: {parameter} is not explained"


@pytest.mark.parametrize("name", [n for n, thing in CALLABLES.items() if inspect.isclass(thing)])
def test_public_methods_are_documented(name: str) -> None:
    for key, member in vars(CALLABLES[name]).items():
        if isinstance(member, types.FunctionType | property) and not key.startswith("_"):
            assert inspect.getdoc(member), f"{name}.{key}"


@pytest.mark.parametrize(("name", "equations"), [
    ("correct_labels", ("Eq. 4",)),
    ("StuffBank", ("Eq. 5",)),
    ("InstanceBank", ("Algorithm 1",)),
    ("StuffMatchingLoss", ("Eq. 6",)),
    ("InstanceMatchingLoss", ("Eq. 8",)),
    ("merge_pseudo_labels", ("Eq. 11",)),
    ("ClassBalancedThreshold", ("Eq. 9",)),
    ("OutputAdversarialLoss", ("Eq. 2",)),
])  # fmt: skip
def test_equations_are_cited(name: str, equations: tuple[str, ...]) -> None:
    thing = getattr(stuffinstance, name)
    text = (inspect.getdoc(thing) or "") + (inspect.getmodule(thing).__doc__ or "")
    for equation in equations:
        assert equation in text
