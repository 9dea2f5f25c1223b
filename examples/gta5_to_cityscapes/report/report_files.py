"""Write the files of a report so that a reader never meets half of one; its templates, and pictures inside a page."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2

from ..records.written_files import written_beside

TEMPLATES = Path(__file__).parent / "templates"


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace ``path`` at once: an interrupted report leaves the previous one as it was."""
    with written_beside(path) as beside:
        beside.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def embedded(data: bytes, kind: str = "png") -> str:
    """A picture as a data address, so that the page is one file and needs no network."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def template(name: str) -> jinja2.Template:
    """A page of the report, to be filled; a name that it is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    return environment.get_template(name)
