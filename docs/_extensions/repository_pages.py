"""Markdown that is read in the repository and on the site: its links are right in both places.

A page includes a file from outside ``docs/``; links of that file start where it lies, not where the page does. And a
link to such a file, from any page, leads to the page that includes it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def rewrite_links(text: str, written_in: Path, shown_in: Path, pages: dict[Path, Path]) -> str:
    """``text`` of a file in the folder ``written_in`` with its links as they are right in the folder ``shown_in``.

    Args:
        text: Markdown.
        written_in: The folder that its relative links start from.
        shown_in: The folder of the page.
        pages: File of the repository to source file of the page that shows it, both absolute.
    """

    def from_the_page(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(written_in / link[1]))
        return os.path.relpath(pages.get(target, target), shown_in)

    parts = FENCED.split(text)
    parts[::2] = [LINK.sub(from_the_page, part) for part in parts[::2]]
    return "".join(parts)


def _pages(app: Sphinx) -> dict[Path, Path]:
    docs = Path(app.srcdir)
    return {docs.parent / file: docs / f"{page}.md" for file, page in app.config.repository_pages.items()}


def on_source_read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Rewrite the links of a page's own text."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md":
        content[0] = rewrite_links(content[0], path.parent, path.parent, _pages(app))


def on_include_read(app: Sphinx, relative_path: Path, parent_docname: str, content: list[str]) -> None:
    """Rewrite the links of an included file. (MyST gives only the last part of ``parent_docname``.)"""
    path = Path(os.path.normpath(Path(app.srcdir) / relative_path))
    if path.suffix == ".md":
        page = Path(app.env.doc2path(app.env.current_document.docname))
        content[0] = rewrite_links(content[0], path.parent, page.parent, _pages(app))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect both, and add the setting ``repository_pages``."""
    app.add_config_value("repository_pages", {}, "env", types=[dict])
    app.connect("source-read", on_source_read)
    app.connect("include-read", on_include_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
