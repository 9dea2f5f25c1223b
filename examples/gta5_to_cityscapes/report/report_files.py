"""Write the files of a report so that a reader never meets half of one, and put pictures inside the page."""

from __future__ import annotations

import base64
from pathlib import Path

from ..records.written_files import written_beside


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace ``path`` at once: an interrupted report leaves the previous one as it was."""
    with written_beside(path) as beside:
        beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def embedded(data: bytes, kind: str = "png") -> str:
    """A picture as a data address, so that the page is one file and needs no network."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
