"""A backend whose package is missing says so, and nothing is searched for while code is traced."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from stuffinstance._backends import Backend, BackendUnavailableError, resolve

CPU = torch.device("cpu")
TABLE = {"fast": Backend("nowhere", "run", ("cpu",), "no_such_package"), "plain": Backend("nowhere", "run")}


def test_a_missing_package_is_named_and_skipped() -> None:
    with pytest.raises(BackendUnavailableError, match=r"'fast' .* needs the package 'no_such_package'"):
        resolve(TABLE, "fast", "labels", CPU)
    assert resolve(TABLE, "auto", "labels", CPU) is TABLE["plain"]


def test_choosing_searches_for_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: searched.append(name))
    resolve(TABLE, "auto", "labels", CPU)
    assert not searched
    assert not Backend("nowhere", "run", package="torch").installed
    assert searched == ["torch"]
