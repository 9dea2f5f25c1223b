"""The tables of the report as Markdown, for a README, an issue or a commit."""

from __future__ import annotations

from collections.abc import Sequence

from .ablation_table import (
    AblationRow,
    AblationTable,
    ClassRow,
    is_next_rung,
    minutes_text,
    signed_number,
)
from .recipe_names import title


def ablation_markdown(table: AblationTable, per_class: Sequence[ClassRow], recipes: Sequence[str]) -> str:
    """Ablation table, per-class table and the notes without which neither can be read."""
    parts = [
        "# Ablation",
        "",
        f"mIoU in percent at the last checkpoint; {table.spread}. Gain: seed by seed over the row above. "
        f"In all: with the runs that a recipe stands on, each counted once. {table.scope}",
        "",
        markdown_table(
            (
                *("recipe", "what it is", "mIoU", "gain", "seeds", f"paper, {table.paper_name}", "paper's gain"),
                *("steps in all", "minutes in all"),
            ),
            [_cells(row) for row in table.rows],
            words=2,
        ),
        "",
        "The paper's columns come from other data, a larger network and a far longer training: "
        "compare the direction of the steps, not the values.",
        "",
    ]
    if per_class and recipes:
        parts += [
            "## IoU per class",
            "",
            markdown_table(
                ("class", *(title(name) for name in recipes)),
                [(row.name, *(cell.text() if cell else "–" for cell in row.cells)) for row in per_class],
            ),
            "",
        ]
    return "\n".join(parts)


def gain_text(row: AblationRow) -> str:
    """The gain, and what it is over wherever that is not the row directly above."""
    if row.gain is None:
        return "–"
    over = "" if is_next_rung(row) or row.gain_over is None else f" (over {title(row.gain_over)})"
    return row.gain.text(signed=True) + over


def _cells(row: AblationRow) -> tuple[str, ...]:
    return (
        f"`{row.recipe}`",
        row.title,
        row.miou.text() if row.miou else "no finished run",
        gain_text(row),
        row.seed_text,
        f"{row.paper:.1f}" if row.paper is not None else "–",
        signed_number(row.paper_gain) if row.paper_gain is not None else "–",
        row.steps,
        minutes_text(row.minutes),
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The first columns hold words, the others numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" * words + "|---:" * (len(head) - words) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
