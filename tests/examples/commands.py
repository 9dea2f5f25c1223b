"""Commands of the pipeline as a person types them, in this process or in one of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from typer.testing import CliRunner

from examples.gta5_to_cityscapes.cli.app import app
from examples.gta5_to_cityscapes.data.training_data import Folders

REPOSITORY = Path(__file__).parents[2]


def invoke(*words: object, code: int = 0) -> str:
    """What a command prints; its exit code must be ``code``."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def in_one_line(text: str) -> str:
    """Without the line breaks and the frame of typer's boxes."""
    return " ".join(text.replace("│", " ").split())


def data(streets: Folders) -> list[str]:
    """The folders as options."""
    return ["--source", str(streets.source), "--target", str(streets.target)]


def settings(items: Iterable[str]) -> list[str]:
    """Settings as options."""
    return [word for item in items for word in ("--set", item)]


def in_its_own_group(*words: str) -> subprocess.Popen[str]:
    """The command in a process group that a test can send signals to, as a terminal would."""
    return subprocess.Popen(
        [sys.executable, "-m", "examples.gta5_to_cityscapes", *words],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests' own parent may ignore it
    )
