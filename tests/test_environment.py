"""The table of backends, and what python -m stuffinstance reports of it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stuffinstance as si
from stuffinstance import __main__ as report
from stuffinstance._backends import (
    PREFERRED_ON_GPU,
    Backend,
    BackendUnavailableError,
    preferred_first,
    resolve,
)
from stuffinstance.pooling.backends import BACKENDS as POOLING
from stuffinstance.regions.backends import BACKENDS as COMPONENTS

CPU = torch.device("cpu")
TABLE = {"fast": Backend("nowhere", "run", ("cpu",), "no_such_package"), "plain": Backend("nowhere", "run")}


def test_a_missing_package_is_named_and_skipped() -> None:
    with pytest.raises(BackendUnavailableError, match=r"'fast' .* needs the package 'no_such_package'"):
        resolve(TABLE, "fast", "labels", CPU)
    assert resolve(TABLE, "auto", "labels", CPU) is TABLE["plain"]


def test_a_package_that_does_not_import_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As numba under a Python or a numpy that it does not know yet."""
    (tmp_path / "compiled_sums.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less')")
    monkeypatch.syspath_prepend(tmp_path)
    table = {"fast": Backend("compiled_sums", "run", ("cpu",), "torch"), "plain": Backend("nowhere", "run")}
    with pytest.warns(UserWarning, match=r"torch is installed but cannot be imported.*Numba needs NumPy 2\.4"):
        assert resolve(table, "auto", "labels", CPU) is table["plain"]
    assert resolve(table, "auto", "labels", CPU) is table["plain"]  # without another warning
    with pytest.raises(BackendUnavailableError, match=r"'torch' cannot be imported \(ImportError: Numba needs"):
        resolve(table, "fast", "labels", CPU)
    monkeypatch.setattr(report, "_OPERATIONS", {"connected_components": table})
    lines = report.as_text(report.environment()).splitlines()
    assert "  fast       cannot be imported: ImportError: Numba needs NumPy 2.4 or less" in lines


def test_a_gpu_takes_what_is_preferred_there_and_a_cpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setitem(PREFERRED_ON_GPU, "connected_components", ("triton",))  # type: ignore[arg-type]
    table = preferred_first("connected_components", COMPONENTS)
    assert resolve(table, "auto", "labels", torch.device("cuda")) is COMPONENTS["triton"]
    assert resolve(table, "auto", "labels", CPU) is resolve(COMPONENTS, "auto", "labels", CPU)
    assert set(table) == set(COMPONENTS)


def test_choosing_searches_for_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: searched.append(name))
    resolve(TABLE, "auto", "labels", CPU)
    assert not searched
    assert not Backend("nowhere", "run", package="torch").installed
    assert searched == ["torch"]


def run(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-m", "stuffinstance", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True, env={**os.environ, **environment})
    assert done.stderr == b""
    return done.stdout.decode("ascii")


def test_the_text_has_versions_devices_and_backends() -> None:
    lines = run(PYTHONIOENCODING="cp1252").splitlines()
    for line in (
        f"stuffinstance: {si.__version__}",
        f"torch: {torch.__version__}",
        f"numpy: {np.__version__}",
        f"python: {platform.python_version()}",
        "  skimage    runs on cpu",
    ):
        assert line in lines, line
    assert any(line.startswith("device cpu:0: ") for line in lines)
    assert any(line.startswith("connected_components: backend='auto' is ") for line in lines)


def test_json_has_every_backend_and_the_one_that_is_taken() -> None:
    found = json.loads(run("--json"))
    assert found["devices"]["cpu"]
    assert {name: list(table) for name, table in found["backends"].items()} == {
        "connected_components": list(COMPONENTS),
        "region_mean": list(POOLING),
    }
    assert found["backends"]["connected_components"]["skimage"] == {
        "runs_on": ["cpu"],
        "for": ["cpu"],
        "missing": None,
        "fault": None,
        "install": None,
    }
    for operation, device_names in found["auto"].items():
        for device, name in device_names.items():
            assert device in found["backends"][operation][name]["runs_on"]


def test_what_is_missing_comes_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "numba": Backend("nowhere", "label", ("cpu",), "no_such_package"),
        "triton": Backend("nowhere", "label", ("cuda",), "triton"),
        "plain": Backend("nowhere", "label"),
    }
    object.__setattr__(table["triton"], "installed", False)
    monkeypatch.setattr(report, "_OPERATIONS", {"connected_components": table})
    monkeypatch.setattr(report, "_version", lambda _: "2.0 für Züge")
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    found = report.environment()
    assert found["backends"]["connected_components"]["numba"]["install"] == "pip install no_such_package"
    lines = report.as_text(found).splitlines()
    assert "  numba      missing, for cpu: pip install no_such_package" in lines
    assert "  triton     missing, for cuda: pip install triton" in lines
    assert "connected_components: backend='auto' is plain on cpu" in lines
    assert r"torch: 2.0 f\xfcr Z\xfcge" in lines
    assert "plotting (matplotlib): missing: pip install 'stuffinstance[draw]'" in lines


def test_accelerators_are_listed_and_one_that_does_not_work_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def is_available() -> bool:
            return True

        @staticmethod
        def device_count() -> int:
            return 2

        @staticmethod
        def get_device_name(index: int) -> Any:
            if index:
                raise RuntimeError("CUDA error: no kernel image\nCompile with ...")
            return "NVIDIA H200"

    monkeypatch.setattr(torch, "cuda", Broken)
    found = report.environment()
    assert found["devices"]["cuda"] == ["NVIDIA H200", "unusable: CUDA error: no kernel image"]
    assert found["auto"]["connected_components"]["cuda"] == "torch"
    lines = report.as_text(found).splitlines()
    assert "device cuda:0: NVIDIA H200" in lines
    assert "device cuda:1: unusable: CUDA error: no kernel image" in lines
