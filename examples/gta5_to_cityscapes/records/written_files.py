"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class DamagedFileError(ValueError):
    """A file of a run folder that does not hold what was written there."""


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes ``path`` when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON object, readable by people."""
    with written_beside(path) as beside:
        beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run folder.

    Raises:
        DamagedFileError: If there is something else in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(
            f"{path}: expected one JSON object, could not read it ({error}). Delete the file, or its run folder."
        ) from error
    if not isinstance(content, dict):
        raise DamagedFileError(
            f"{path}: expected one JSON object, got {type(content).__name__}. Delete the file, or its run folder."
        )
    return content
