"""Atomic file writes: written beside their place, then renamed into it; with errors that name the file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# No space, a limit on the size of files, a quota.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class UnwritableError(OSError):
    """A file cannot be written where it belongs; the message names it and says what to do."""


class DamagedFileError(ValueError):
    """A file of a run folder that does not hold what was written there."""


@contextmanager
def room_needed(path: Path) -> Iterator[None]:
    """Errors of writing ``path`` in the block name it and say what to do.

    Raises:
        UnwritableError: If the disk is full, its folder is gone or read-only, or the device fails.
    """
    try:
        yield
    except UnwritableError:
        raise
    except Exception as error:
        if (reason := _no_room(error)) is not None:
            raise UnwritableError(
                f"{path}: expected room to write it, got none ({os.strerror(reason)}). What was written before is "
                "kept: free some space, then give the same command again."
            ) from error
        if not isinstance(error, OSError) or error.errno is None or not _is_about(error, path):
            raise
        raise UnwritableError(
            f"{path}: expected a place where it can be written, got: {os.strerror(error.errno)}. Make its folder one "
            "that can be written to and give the same command again, or choose another --out."
        ) from error


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error is about a file in its folder or about one of its folders, not about a file that is copied."""
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return not named or any(name.parent == path.parent or name in path.parents for name in named)


def _no_room(error: BaseException | None) -> int | None:
    """The errno of a full disk, also where a library hides it behind an error of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def written_beside(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path, which replaces ``path`` when the block succeeds and is removed when it fails.

    A process that is killed leaves ``path`` as it was. With ``durable`` so does a power cut, where the file system can
    sync a folder; that waits for the disk.

    Raises:
        UnwritableError: If the disk is full, its folder is gone or read-only, or the device fails.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with room_needed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            if durable:
                _to_disk(beside, os.O_RDWR)
            beside.replace(path)
        if durable:
            with suppress(OSError):  # many file systems cannot sync a folder, Windows cannot open one
                _to_disk(path.parent, os.O_RDONLY)
    finally:
        with suppress(OSError):  # what is wrong with the folder is the error above
            beside.unlink(missing_ok=True)


def _to_disk(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed had not finished writing below ``folder``."""
    for beside in folder.rglob(".*.part"):
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON object, readable by people."""
    with written_beside(path, durable=True) as beside:
        beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run folder.

    Raises:
        DamagedFileError: If there is something else in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"got {type(content).__name__}")
    except (ValueError, RecursionError) as error:  # nested too deeply
        raise DamagedFileError(
            f"{path}: expected one JSON object, could not read it ({error}). Delete the file, or its run folder."
        ) from error
    return content
