"""The public names are these; a removed one is a breaking change and must be decided, not happen."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from importlib import resources
from types import ModuleType

import pytest

import stuffinstance as si
from tests.contracts import error_messages, public_signatures


@pytest.mark.parametrize("kind", [public_signatures, error_messages])
def test_signatures_and_messages_are_the_stored_ones(kind: ModuleType) -> None:
    stored = kind.STORED.read_text(encoding="utf-8").splitlines()
    found = getattr(kind, kind.STORED.stem)().splitlines()
    changes = [line for line in difflib.ndiff(stored, found) if line[0] in "-+"]
    assert not changes, "what users see has changed. Where that is meant: make signatures"
    assert not [line for line in stored if " at 0x" in line], "something without a repr of its own"


def test_every_name_is_listed_once_and_is_there() -> None:
    for room in public_signatures.ROOMS:
        assert len(set(room.__all__)) == len(room.__all__)
        for name in room.__all__:
            assert getattr(room, name) is not None


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([.-]?(dev|a|b|rc)\d+)?", si.__version__)


def test_types_are_published() -> None:
    assert resources.files("stuffinstance").joinpath("py.typed").is_file()


IMPORT = """
import sys, time, torch
before, threads = torch.random.get_rng_state(), torch.get_num_threads()
start = time.perf_counter()
import stuffinstance as si
seconds = time.perf_counter() - start
assert 'stuffinstance.plotting' not in sys.modules and 'plotting' in dir(si)
assert si.plotting is sys.modules['stuffinstance.plotting'] and not hasattr(si, 'drawings')
assert torch.equal(before, torch.random.get_rng_state()) and threads == torch.get_num_threads()
heavy = {'kornia', 'skimage', 'scipy', 'matplotlib', 'PIL', 'triton'} & set(sys.modules)
assert not heavy, heavy
print(seconds)
"""


def test_importing_is_light_silent_and_takes_less_than_a_second_beyond_torch() -> None:
    """kornia comes with the function that needs it; scikit-image, matplotlib too; nothing random, nothing printed."""
    for _ in range(3):  # a busy machine may be slow once
        command = [sys.executable, "-W", "error", "-c", IMPORT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        if float(done.stdout) < 1:
            return
    pytest.fail(f"importing took {done.stdout} s")
