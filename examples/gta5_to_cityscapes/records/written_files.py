"""Files that are whole or absent: written beside their place, then renamed into it; and what a full disk says."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# No space, a quota, a limit on the size of files.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class FullDiskError(OSError):
    """There is no room for a file; the message names it and says what to do."""


class DamagedFileError(ValueError):
    """A file of a run folder that does not hold what was written there."""


@contextmanager
def room_needed(path: Path) -> Iterator[None]:
    """A disk that is full while ``path`` is written in the block says what to do.

    Raises:
        FullDiskError: If it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, FullDiskError) or (reason := _no_room(error)) is None:
            raise
        raise FullDiskError(
            f"{path}: expected room to write it, got none ({os.strerror(reason)}). What was written before is kept: "
            "free some space, then give the same command again."
        ) from error


def _no_room(error: BaseException | None) -> int | None:
    """The errno of a full disk, also where a library hides it behind an error of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def written_beside(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path to write to; it becomes ``path`` when the block ends well and vanishes when it does not.

    A process that is killed leaves ``path`` as it was. With ``durable`` so does a power cut; that waits for the disk.

    Raises:
        FullDiskError: If there is no room for it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with room_needed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            if durable:
                _to_disk(beside, os.O_RDWR)
            beside.replace(path)
            if durable and os.name == "posix":  # elsewhere folders cannot be opened
                _to_disk(path.parent, os.O_RDONLY)
    finally:
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
    except (ValueError, RecursionError) as error:  # nested too deeply
        raise DamagedFileError(
            f"{path}: expected one JSON object, could not read it ({error}). Delete the file, or its run folder."
        ) from error
    if not isinstance(content, dict):
        raise DamagedFileError(
            f"{path}: expected one JSON object, got {type(content).__name__}. Delete the file, or its run folder."
        )
    return content
