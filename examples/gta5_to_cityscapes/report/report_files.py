"""Write the files of a report so that a reader never meets half of one."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside ``path`` and rename: an interrupted report leaves the previous one whole."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(beside).chmod(0o644)  # temporary files are private; a report is to be shared
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def embedded(data: bytes, kind: str = "png") -> str:
    """A picture as a data address, so that the page is one file and needs no network."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
