"""Files that are written whole or not at all, and what is reported where they cannot be."""

from __future__ import annotations

import ast
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.gta5_to_cityscapes.atomic_io import FullDiskError, UnwritableError, read_json, write_json, written_beside

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("src", "examples", "benchmarks", "docs")
    for path in (REPOSITORY / folder).rglob("*.py")
    if "_build" not in path.parts
)
READS_TEXT = ("read_text", "write_text", "open", "run", "Popen", "check_output")
WRITES = ("write_text", "write_bytes", "save", "savez_compressed", "savefig", "imwrite")
NOT_FINAL = {"beside", "buffer", "file"}  # what these are called on or given, where the file has no reader yet
WRITES_WHOLE = "examples/gta5_to_cityscapes/atomic_io.py"


def failing_fsync(monkeypatch: pytest.MonkeyPatch, code: int, *, folders: bool) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EPERM", "EACCES", "ENOSYS", "EBADF"])
def test_a_folder_that_cannot_be_synced_keeps_nothing_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failing_fsync(monkeypatch, getattr(errno, name), folders=True)
    write_json(tmp_path / "a" / "result.json", {"step": 3})
    assert read_json(tmp_path / "a" / "result.json") == {"step": 3}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result.json"]


@pytest.mark.skipif(os.name != "posix", reason="folders are opened on POSIX alone")
def test_a_folder_that_cannot_be_opened_to_be_synced_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = os.open

    def failing_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing_open)
    write_json(tmp_path / "result.json", {"step": 3})
    assert read_json(tmp_path / "result.json") == {"step": 3}


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize(("name", "kind"), [("EIO", UnwritableError), ("ENOSPC", FullDiskError)])
def test_a_device_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[UnwritableError], folders: bool
) -> None:
    write_json(tmp_path / "result.json", {"step": 2})
    failing_fsync(monkeypatch, getattr(errno, name), folders=folders)
    with pytest.raises(kind, match=r"result\.json: expected .*" + os.strerror(getattr(errno, name))) as error:
        write_json(tmp_path / "result.json", {"step": 3})
    assert error.type is kind
    assert read_json(tmp_path / "result.json") == {"step": 3 if folders else 2}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("name", ["EINVAL", "EPERM", "ENOTSUP"])
def test_a_file_that_cannot_be_synced_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    failing_fsync(monkeypatch, getattr(errno, name), folders=False)
    with pytest.raises(UnwritableError, match=r"result\.json: expected a place where it can be written"):
        write_json(tmp_path / "result.json", {"step": 3})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("EXDEV", "mounted over the file itself"),
        ("EBUSY", "mounted over the file itself"),
        ("EROFS", "Mount it for writing"),
        ("EACCES", "Allow writing there"),
        ("EIO", "Look at the device"),
    ],
)
def test_what_keeps_a_file_from_its_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    code = getattr(errno, name)

    def replace(path: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(path), None, str(target))

    write_json(tmp_path / "result.json", {"step": 2})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(UnwritableError, match=rf"result\.json: .*{os.strerror(code)}\. .*{advice}"):
            write_json(tmp_path / "result.json", {"step": 3})
    assert read_json(tmp_path / "result.json") == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def vanish_while_writing(path: Path) -> None:
    with written_beside(path) as beside:
        beside.write_text("{}", encoding="utf-8")
        shutil.rmtree(path.parent)


def test_a_folder_that_vanishes_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match=r"result\.json: .*Its folder is gone: put it back"):
        vanish_while_writing(tmp_path / "run" / "result.json")


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UnwritableError, match=r"One of the folders in its path is a file"):
        write_json(tmp_path / "run" / "seed0" / "result.json", {})
    with pytest.raises(UnwritableError, match=r"One of the folders in its path is a file"):
        write_json(tmp_path / "run" / "result.json", {})
    (tmp_path / "result.json").mkdir()
    with pytest.raises(UnwritableError, match=r"A folder is in its place"):
        write_json(tmp_path / "result.json", {})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(UnwritableError, match=r"run/result\.json: .*Permission denied\. Allow writing there"):
        write_json(tmp_path / "run" / "result.json", {})


def test_what_is_wrong_with_another_file_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), written_beside(tmp_path / "out" / "a.png") as beside:
        shutil.copyfile(tmp_path / "elsewhere", beside)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Names of the functions that a file calls, the last word of each."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr, node


def mode_of(call: ast.Call) -> str:
    values = [*call.args, *(each.value for each in call.keywords if each.arg == "mode")]
    modes = [each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return next((each for each in modes if set(each) <= set("rwabxt+")), "r")


def without_encoding(path: Path) -> list[str]:
    """Calls that read or write text in whatever encoding the machine prefers."""
    found = []
    for name, call in calls(path):
        given = {each.arg for each in call.keywords}
        text = name in ("read_text", "write_text") or "text" in given or "universal_newlines" in given
        if name == "open" and "b" not in mode_of(call):
            # Path.open is given a mode, an archive's open the name of a part.
            text = isinstance(call.func, ast.Name) or not call.args or isinstance(call.args[0], ast.Constant)
        if text and name in READS_TEXT and "encoding" not in given:
            found.append(f"{path.name}:{call.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_text_is_read_and_written_in_a_named_encoding(path: Path) -> None:
    assert without_encoding(path) == []


@pytest.mark.parametrize(
    "source",
    ["path.read_text()", "path.write_text('x')", "path.open()", "open(name, 'w')", "subprocess.run(['x'], text=True)"],
)
def test_text_without_an_encoding_is_found(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(source, encoding="utf-8")
    assert without_encoding(tmp_path / "a.py")


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


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.relative_to(REPOSITORY).parts[0] in ("examples", "benchmarks")],
    ids=lambda path: str(path.relative_to(REPOSITORY)),
)
def test_results_are_written_whole(path: Path) -> None:
    assert path.relative_to(REPOSITORY).as_posix() == WRITES_WHOLE or written_in_place(path) == []


@pytest.mark.parametrize("source", ["path.write_bytes(x)", "open(path, 'w')", "fig.savefig(path)", "image.save(path)"])
def test_what_is_written_in_place_is_found(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(source, encoding="utf-8")
    assert written_in_place(tmp_path / "a.py")
