"""Files that are written whole or not at all, and what is reported where they cannot be."""

from __future__ import annotations

import ast
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.gta5_to_cityscapes.atomic_io import UnwritableError, read_json, write_json, written_beside

REPOSITORY = Path(__file__).parents[2]
WRITES = ("write_text", "write_bytes", "save", "savez_compressed", "savefig", "imwrite")
# What these are called on or given, where there is no reader yet, or one who expects an unfinished log.
NOT_FINAL = {"beside", "buffer", "file", "checkpoint", "log"}


def failing(call: Callable[..., Any], code: str, fails: Callable[..., bool]) -> Callable[..., Any]:
    """``call``, which raises an OSError where ``fails``."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if fails(*args):
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        return call(*args, **kwargs)

    return wrapped


def of_a_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EPERM", "EINVAL", "EXDEV", "EROFS"])
@pytest.mark.parametrize("call", ["sync", "rename"])
def test_a_device_that_fails_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: str
) -> None:
    write_json(tmp_path / "result.json", {"step": 2})
    with monkeypatch.context() as patch:
        if call == "sync":
            patch.setattr(os, "fsync", failing(os.fsync, code, lambda descriptor: not of_a_folder(descriptor)))
        else:
            patch.setattr(Path, "replace", failing(Path.replace, code, lambda *args: True))
        with pytest.raises(UnwritableError, match=rf"result\.json: .*{os.strerror(getattr(errno, code))}"):
            write_json(tmp_path / "result.json", {"step": 3})
    assert read_json(tmp_path / "result.json") == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("code", ["EINVAL", "EACCES"])
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_folder_that_cannot_be_synced_keeps_nothing_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: str
) -> None:
    of_folders = of_a_folder if call == "fsync" else lambda path, *_: Path(path).is_dir()
    monkeypatch.setattr(os, call, failing(getattr(os, call), code, of_folders))
    write_json(tmp_path / "a" / "result.json", {"step": 3})
    assert read_json(tmp_path / "a" / "result.json") == {"step": 3}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result.json"]


def vanished(path: Path) -> None:
    with written_beside(path) as beside:
        beside.write_text("{}", encoding="utf-8")
        shutil.rmtree(path.parent)


def below_a_file(path: Path) -> None:
    path.parent.touch()
    write_json(path / "result.json", {})


def in_place_of_a_folder(path: Path) -> None:
    path.mkdir(parents=True)
    write_json(path, {})


def read_only(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    write_json(path, {})


@pytest.mark.parametrize("write", [vanished, below_a_file, in_place_of_a_folder, read_only])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(UnwritableError, match=r"result\.json: expected a place where it can be written"):
        write(tmp_path / "run" / "result.json")


def test_what_is_wrong_with_another_file_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), written_beside(tmp_path / "out" / "a.png") as beside:
        shutil.copyfile(tmp_path / "elsewhere", beside)


def half_written(path: Path) -> None:
    with written_beside(path) as beside:
        beside.write_text("half")
        raise RuntimeError("power cut")


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(RuntimeError, match="power cut"):
        half_written(tmp_path / "file.txt")
    assert (tmp_path / "file.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Names of the functions that a file calls, the last word of each."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr, node


def mode_of(call: ast.Call) -> str:
    values = [*call.args, *(each.value for each in call.keywords if each.arg == "mode")]
    modes = [each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return next((each for each in modes if set(each) <= set("rwabxt+")), "r")


def written_in_place(path: Path) -> list[str]:
    """Calls that write to a file under its own name, of which a reader could find a half."""
    found = []
    for name, call in calls(path):
        names = {each.id for each in ast.walk(call) if isinstance(each, ast.Name)}
        plain = bool(call.args) and isinstance(call.args[0], ast.Dict)  # KeptCheckpoints.save
        constants = [str(each.value) for each in ast.walk(call) if isinstance(each, ast.Constant)]
        writes = name in WRITES or (name == "open" and bool(set(mode_of(call)) & set("wx")))
        device = any(each.startswith("/proc/") for each in constants) or "devnull" in ast.dump(call)
        if writes and not (names & NOT_FINAL or plain or device):
            found.append(f"{path.name}:{call.lineno}: {name}")
    return found


def test_results_are_written_whole() -> None:
    files = [path for folder in ("examples", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 50
    assert [line for path in files if path.name != "atomic_io.py" for line in written_in_place(path)] == []


@pytest.mark.parametrize("source", ["path.write_bytes(x)", "open(path, 'w')", "fig.savefig(path)", "image.save(path)"])
def test_what_is_written_in_place_is_found(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(source, encoding="utf-8")
    assert written_in_place(tmp_path / "a.py")
