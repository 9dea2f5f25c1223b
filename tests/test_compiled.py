"""Compiled functions: where their code cannot be kept, and how threads share their work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stuffinstance._compiled import compiled, over_threads


def test_a_function_runs_whose_code_cannot_be_kept() -> None:
    """Nothing is kept of what was not read from a file, as where no folder can be written."""
    names: dict[str, object] = {}
    exec("def add(a, b):\n    return a + b", names)
    assert compiled(names["add"])(2, 3) == 5


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 40])
def test_parts_cover_the_work_once(monkeypatch: pytest.MonkeyPatch, count: int, threads: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    done: list[int] = []
    parts: list[int] = []

    def kernel(first: int, last: int, into: list[int]) -> None:
        parts.append(last - first)
        into.extend(range(first, last))

    over_threads(kernel, count, threads, done)
    assert sorted(done) == list(range(count))
    assert len(parts) == max(1, min(count, threads, 4))
    assert max(parts) - min(parts) <= 1


def test_a_threads_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def kernel(first: int, last: int) -> None:
        if first == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        over_threads(kernel, 2, 2)


FORKED = """
import os, signal, torch
from stuffinstance._compiled import over_threads
torch.set_num_threads(2)
parts = []
over_threads(lambda first, last: parts.append(first), 2, 2)
child = os.fork()
if child == 0:
    signal.alarm(60)
    over_threads(lambda first, last: parts.append(first), 2, 2)
    os._exit(0 if sorted(parts) == [0, 0, 1, 1] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it cannot fork")
def test_a_forked_process_makes_threads_of_its_own() -> None:
    """As the workers of a data loader are, of a process that has used its threads."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)


def test_nothing_outside_of_arrays_is_read_or_written(tmp_path: Path) -> None:
    """Compiled with a check at every index: where one is wrong, memory of something else is read or overwritten."""
    called = "connected_components or instance_regions or region_mean"
    chosen = f"test_a_wrong_argument and ({called}) or test_the_ends_of_an_integer_type and dtype4-numba"
    files = "tests/test_wrong_arguments.py", "tests/test_components.py", "tests/test_extraction.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files]
    checks = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=os.environ | checks, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
