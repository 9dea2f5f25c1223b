"""Follow every link of the built site: files and anchors inside it exist, and no page loads anything from elsewhere.

python .ci/check_site_links.py docs/_build/html
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

# Attributes that make a browser load something while it shows the page.
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("source", "src"), ("iframe", "src"), ("object", "data")}


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and the id of an element."""
        for name, value in attrs:
            if value is None:
                continue
            if (tag, name) in LOADED:
                self.loaded.append(value)
            elif name == "href":
                self.links.append(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)


def problems_of(root: Path, path: Path, pages: dict[Path, Page]) -> list[str]:
    """What is wrong with the links of one page, a line each."""
    found = []
    here = path.relative_to(root).as_posix()
    for address in [*pages[path].links, *pages[path].loaded]:
        parts = urlsplit(urljoin(f"site:///{here}", address) if not urlsplit(address).scheme else address)
        if parts.scheme in {"http", "https"} or address.startswith("//"):
            if address in pages[path].loaded:
                found.append(f"{here} loads {address}: the site must be whole without a network")
        elif parts.scheme not in {"data", "mailto"}:
            target = (path.parent / unquote(urlsplit(address).path)).resolve() if urlsplit(address).path else path
            if not target.is_file():
                found.append(f"{here} leads to {address}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{here} leads to {address}, which has no such anchor")
    return found


def main(root: Path) -> int:
    """Print each problem; the number of them is what the process ends with, at most 1."""
    paths = sorted(root.resolve().rglob("*.html"))
    if not paths:
        print(f"{root} holds no page: build the site first (make docs)")
        return 1
    pages = {path: Page(path) for path in paths}
    found = [problem for path in paths for problem in problems_of(root.resolve(), path, pages)]
    for style in sorted(root.rglob("*.css")):
        for address in re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]+\)|@import[^;]+//[^;]+", style.read_text("utf-8")):
            found.append(f"{style.relative_to(root)} loads {address}")
    for problem in found:
        print(problem)
    links = sum(len(page.links) + len(page.loaded) for page in pages.values())
    print(f"{len(paths)} pages, {links} links: {len(found) or 'no'} problems")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
