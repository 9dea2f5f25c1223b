"""What a command prints reaches any terminal, pipe or file: no work is lost for a dash."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from examples.gta5_to_cityscapes.console import escape_unprintable

from .commands import REPOSITORY
from .test_report import make_run

PROGRAMS = sorted(
    path
    for folder in ("examples", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)
SAID = "GTA5 → Cityscapes, λ_ci 0.01 – 49.2 \N{WOMAN} " + os.fsdecode(b"caf\xe9")


class Output(io.TextIOWrapper):
    """A standard stream of some encoding, and what has been written to it."""

    def __init__(self, encoding: str, errors: str = "strict") -> None:
        self.written = io.BytesIO()
        super().__init__(self.written, encoding=encoding, errors=errors)

    @property
    def text(self) -> str:
        self.flush()
        return self.written.getvalue().decode(self.encoding, "surrogateescape")


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Output:
    stream = Output(*request.param)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    escape_unprintable()
    return stream


ENCODINGS = [(name, "strict") for name in ("cp1252", "latin-1", "cp932", "cp437", "ascii", "gbk", "utf-8")]


@pytest.mark.parametrize("output", [*ENCODINGS, ("ascii", "surrogateescape")], indirect=True)
def test_any_text_is_printed(output: Output) -> None:
    print(SAID)
    table = Table("class", "IoU %")
    table.add_row(SAID, "–")
    Console(file=output, width=200).print(table)
    for char in SAID:
        try:
            char.encode(output.encoding)
            shown = char
        except UnicodeEncodeError:
            shown = char.encode("ascii", "backslashreplace").decode()
        assert shown in output.text


@pytest.mark.parametrize("output", [("ascii", "replace"), ("utf-8", "surrogateescape")], indirect=True)
def test_a_stream_that_can_print_it_stays_as_it_is(output: Output) -> None:
    before = output.errors
    print(SAID)
    assert output.errors == before
    assert "\\u" not in output.text


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_program_prints_any_text(path: Path) -> None:
    assert "escape_unprintable()" in path.read_text(encoding="utf-8")


def test_programs_are_found() -> None:
    assert len(PROGRAMS) >= 6


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are Unicode")
def test_a_command_ends_well_where_output_is_not_utf_8_and_its_folder_no_unicode(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    make_run(out, "source", 0, 20.0)
    command = [sys.executable, "-m", "examples.gta5_to_cityscapes", "report", os.fspath(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=False)
    text = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, text
    assert "\\u2013" in text  # a gain that is not known has a dash
    assert "caf\\udce9" in text
    assert (out / "report" / "table.md").read_text(encoding="utf-8")
