"""One thread, seeds, and memory that shows when it is read before it is written."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Tests share the machine: one thread each, and each process that they start. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Triton decides when a kernel's module is imported whether to interpret it; it must be said before.
    os.environ.setdefault("TRITON_INTERPRET", "1")

HERE = Path(__file__).parent

gc.disable()  # until tests are collected


def pytest_collection_finish() -> None:
    """Leave the million objects that were imported and collected out of all searches for garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let them go: some libraries complain of what is left when the process ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def reproducible(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed torch; for the library's own tests also fill uninitialized memory with NaN."""
    torch.manual_seed(0)
    if HERE / "examples" in request.node.path.parents:
        yield
        return
    torch.use_deterministic_algorithms(True)  # with it torch.empty is NaN, integers their maximum
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no value of a tensor that ``validate_args`` does not ask for, as on a GPU."""
    monkeypatch.setattr("stuffinstance._checks.READ_ON", ())


@pytest.fixture
def compiling() -> Iterator[None]:
    """Nothing compiled before or left behind."""
    torch.compiler.reset()
    torch.use_deterministic_algorithms(False)  # the compiler's own buffers need no poison
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def golden_sim() -> dict[str, np.ndarray]:
    """40 recorded training iterations of the authors' code."""
    with np.load(HERE / "golden" / "sim_reference.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def golden_baselines() -> dict[str, np.ndarray]:
    """Recorded thresholds, pseudo-labels, discriminator values and scores."""
    with np.load(HERE / "golden" / "baselines_reference.npz") as archive:
        return dict(archive)
