"""Pages made of blocks, as HTML in one file and as Markdown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ..atomic_io import written_beside
from .charts import Chart
from .results import Run

FACTS = {  # group and name of a setting
    "steps of a run": ("schedule", "max_steps"),
    "steps of the learning rate schedule": ("schedule", "decay_steps"),
    "network": ("network", "name"),
    "source, height × width": ("data", "source_size"),
    "target, height × width": ("data", "target_size"),
    "batch": ("data", "batch"),
}

Block = dict[str, Any]
"""One of: ``text``; ``note``; ``heading``; ``code``; ``facts``, pairs of name and value; ``chart``; ``rule`` of
pseudo-labels with ``quantile`` and ``cap``; ``table``, a frame of texts, with
``names`` and ``notes`` of its rows or without. Captions are in the template."""


@dataclass(frozen=True)
class Page:
    """A report: blocks by the heading of their section, what is not complete yet, and the main results."""

    heading: str
    lead: str
    sections: dict[str, list[Block]]
    incomplete: Sequence[Block] = ()
    numbers: Sequence[tuple[str, str]] = ()


def chart_block(chart: Chart | None, pending: str = "") -> Block:
    """A chart, or a note on why it is pending."""
    return {"chart": chart} if chart else {"note": pending}


def table_blocks(frame: pd.DataFrame) -> list[Block]:
    """A table, or nothing where it is empty."""
    return [{"table": frame}] if len(frame) else []


def facts(runs: Sequence[Run]) -> list[Block]:
    """What was run and on what, from what the runs themselves recorded."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        values = [(name, run.setting(*place)) for name, place in FACTS.items()]
        values.append(("start weights", "given" if run.setting("network", "weights") else "random"))
        values += [(f"{name} images", each.get("count")) for name, each in run.data.items() if isinstance(each, dict)]
        for name, value in values:
            if value:
                text = " × ".join(map(str, value)) if isinstance(value, list) else value
                found.setdefault(name, {})[f"{text:,}" if isinstance(text, int) else str(text)] = None
    blocks: list[Block] = [{"facts": [(name, " or ".join(texts)) for name, texts in found.items()]}] if found else []
    environment = next((run.environment for run in runs if run.environment), {})
    rows = pd.json_normalize(environment, sep=" ").to_dict("records") if environment else []
    return blocks + [{"facts": [(k.replace("_", " "), str(v)) for k, v in row.items()]} for row in rows]


def write_page(page: Page, folder: Path, name: str, markdown: str, sections: Sequence[str] = ()) -> Path:
    """Write ``<name>.html``, ``<markdown>.md`` with some sections or all, and the charts; return the page.

    Each file replaces its predecessor as a whole, so an interrupted report leaves complete files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for chart in (block["chart"] for blocks in page.sections.values() for block in blocks if "chart" in block):
        _replace(folder / f"{chart.name}.png", chart.png)
    _replace(folder / f"{markdown}.md", _bytes(as_markdown(page, sections or tuple(page.sections))))
    _replace(folder / f"{name}.html", _bytes(as_html(page, f"{markdown}.md")))
    return folder / f"{name}.html"


def _bytes(text: str) -> bytes:
    """UTF-8; a path of the file system that is not readable as text is shown by its bytes."""
    return text.encode("utf-8", "backslashreplace")


def _replace(path: Path, content: bytes) -> None:
    with written_beside(path) as beside:
        beside.write_bytes(content)


def as_html(page: Page, markdown: str) -> str:
    """The page with every chart inside; a name that the template does not get is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["embedded"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return environment.get_template("page.html.j2").render(page=page, markdown=markdown)


def as_markdown(page: Page, sections: Sequence[str]) -> str:
    """Sections for a README, an issue or a commit."""
    parts = [f"# {page.heading}"]
    for heading in sections:
        parts += [f"## {heading}", *map(_markdown, page.sections[heading])]
    parts += ["## Not complete", *map(_markdown, page.incomplete)] if page.incomplete else []
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case {"table": frame}:
            return markdown_table(frame, block.get("names"))
        case {"chart": chart}:
            return f"![{chart.alt}]({chart.name}.png)"
        case {"facts": facts}:
            return "; ".join(f"{name}: {value}" for name, value in facts) + "."
        case {"code": code}:
            return f"```sh\n{code}\n```"
        case {"heading": heading}:
            return f"### {heading}"
    return str(block.get("text", block.get("note")))


def markdown_table(frame: pd.DataFrame, names: Sequence[str] | None = None) -> str:
    """A table whose first column holds words, and before it the rows' names if there are any."""
    rows = [list(frame.columns), *(list(row) for row in frame.itertuples(index=False))]
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "|---" + "|---:" * (len(frame.columns) - 1) + "|"
    if names is not None:
        lines = [f"| {name} {line}" for name, line in zip(("name", *(f"`{n}`" for n in names)), lines, strict=True)]
        rule = "|---" + rule
    return "\n".join([lines[0], rule, *lines[1:]])
