"""The page of one experiment of the paper: table, chart, what was run, costs; as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records.experiment_record import ExperimentRecord
from .ablation_table import ONE_SEED, minutes_text, signed_number, spread_text
from .costs import environment_rows
from .drawn_figure import DARK, LIGHT, Drawn
from .markdown_tables import markdown_table
from .paper_charts import draw_beside_paper, training_curves
from .paper_rows import PaperRow, gain_is_over, read_rows
from .report_files import template, write_whole
from .results import Run

LINE_LENGTH = 88  # of the command, which a page of the site then shows whole
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # head and rows


def write_paper_page(record: ExperimentRecord, folder: Path) -> Path:
    """Write ``report/<name>.html``, ``<name>.md`` and the chart of an experiment, finished or not.

    Args:
        record: Which experiment.
        folder: Holds its runs.

    Returns:
        The page: one file with the chart inside, nothing to fetch.
    """
    rows = read_rows(record, folder)
    chart = draw_beside_paper(record, rows)
    out = folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    if chart:
        write_whole(out / f"{record.name}.png", chart.light)
        write_whole(out / f"{record.name}-dark.png", chart.dark)
    content = _content(record, rows, chart)
    write_whole(out / f"{record.name}.md", _markdown(content))
    page = out / f"{record.name}.html"
    write_whole(page, template("experiment.html.j2").render(**content, light=LIGHT, dark=DARK))
    return page


def _content(record: ExperimentRecord, rows: Sequence[PaperRow], chart: Drawn | None) -> dict[str, Any]:
    """What both forms of the page say."""
    runs = [run for row in rows for run in row.runs]
    return {
        "record": record,
        "paper": record.paper,
        "chart": chart,
        "caption": _caption(record),
        "scores": score_table(record, rows),
        "notes": _notes(record, rows),
        "open": _unfinished(record, rows),
        "command": command(record),
        "facts": _facts(runs),
        "costs": _costs(record, rows),
        "environment": environment_rows(runs),
    }


def command(record: ExperimentRecord) -> str:
    """What to type for the same runs; files of this machine by their names alone."""
    words = [
        f"python -m examples.gta5_to_cityscapes experiment {record.name} --size {record.size}",
        f"--seeds {','.join(map(str, record.seeds))}",
        "--generate" if record.generated else f"--source {record.paper.source.upper()} --target CITYSCAPES",
        *record.list_options,
        "--out OUT",
        *(f"--set {key}={Path(value).name}" for key, _, value in (each.partition("=") for each in record.settings)),
    ]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < LINE_LENGTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)


def score_table(record: ExperimentRecord, rows: Sequence[PaperRow]) -> Table:
    """Our numbers beside the paper's."""
    sweep = record.paper.sweep
    head = ("mIoU here", "gain", "seeds", "mIoU, paper", "gain, paper")
    if record.paper.curve:
        return ("recipe", "highest mean", "at step", *head), [_curve_cells(row) + _cells(row) for row in rows]
    if sweep is None:
        return ("recipe", *head), [(row.label, *_cells(row)) for row in rows]
    return (
        (f"{sweep.symbol} here", f"{sweep.symbol}, paper", *head),
        [(row.label, f"{row.variant.published_value:g}", *_cells(row)) for row in rows],
    )


def _cells(row: PaperRow) -> tuple[str, ...]:
    return (
        row.miou.text() if row.miou else "no finished run",
        row.gain.text(signed=True) if row.gain else "–",
        row.seed_text,
        "–" if row.variant.published is None else f"{row.variant.published:.1f}",
        "–" if row.paper_gain is None else signed_number(row.paper_gain),
    )


def _curve_cells(row: PaperRow) -> tuple[str, ...]:
    curve = training_curves([row]).get(row.label)
    if curve is None:
        return (row.label, "–", "–")
    highest = int(curve.mean.argmax())
    return (row.label, f"{curve.mean[highest]:.1f}", f"{curve.steps[highest]:,}")


def _notes(record: ExperimentRecord, rows: Sequence[PaperRow]) -> list[str]:
    """Without these the table cannot be read."""
    paper = record.paper
    one = max((len(row.scores) for row in rows), default=0) <= 1
    spread = ONE_SEED if one else "mean ± sample standard deviation over seeds"
    notes = [
        f"mIoU in percent at the last checkpoint; {spread}. Gain: seed by seed over {gain_is_over(paper)}.",
        f"In the paper: {paper.data}{', 13 classes' if paper.classes == '13' else ''}."
        + (" Here: the generated city in the same layouts." if record.generated else ""),
    ]
    if not record.size.startswith("full"):
        notes.append(
            "The paper's numbers come from other pictures, a larger network and a far longer training: compare the "
            "direction of the steps, not the values."
        )
    if paper.sweep and any(row.variant.value != row.variant.published_value for row in rows):
        notes.append(
            f"The values of {paper.sweep.symbol} are the paper's multiples of what {paper.sweep.group}."
            f"{paper.sweep.setting} is in this size."
        )
    if paper.sweep and paper.sweep.note:
        notes.append(paper.sweep.note)
    if paper.curve:
        notes.append(
            "The highest mean is the best of the curve's points, chosen by the target's labels: it shows what was lost "
            "afterwards and is no result. The paper prints the curves alone; 41.4 is its Table 2's."
        )
    return notes


def _caption(record: ExperimentRecord) -> str:
    """What to see in the chart."""
    if record.paper.curve:
        return "The line is the mean over seeds, the band reaches from the lowest to the highest seed."
    if record.paper.sweep:
        return (
            "Dots are seeds, the line is their mean with its standard deviation. The two panels have scales of their "
            "own: where the deviations of two values overlap, their order is not settled."
        )
    return "Each bar reaches to the mean over seeds, each dot is one seed."


def _unfinished(record: ExperimentRecord, rows: Sequence[PaperRow]) -> list[str]:
    """What does not count in the table yet, row by row."""
    lines = []
    for row in rows:
        under_way = {run.seed: run.last_step for run in row.runs if not run.finished}
        states = [f"seed {seed} at step {step:,}" for seed, step in under_way.items() if seed in row.missing]
        waiting = [str(seed) for seed in row.missing if seed not in under_way]
        if waiting:
            states.append(f"seed{'s' if len(waiting) > 1 else ''} {', '.join(waiting)} not begun")
        if states:
            name = f"{record.paper.sweep.symbol} = {row.label}" if record.paper.sweep else row.label
            lines.append(f"{name}: {', '.join(states)}")
    return lines


def _facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What was run, from what the runs themselves recorded."""
    facts: dict[str, dict[str, None]] = {}
    for run in runs:
        settings = run.settings
        for name, value in (
            ("steps of a run", f"{settings.get('schedule', {}).get('steps', 0):,}"),
            ("network", settings.get("network", {}).get("name")),
            ("start weights", "given" if settings.get("network", {}).get("weights") else "random"),
            ("source, height × width", _size(settings, "source_size")),
            ("target, height × width", _size(settings, "target_size")),
            ("batch", settings.get("pictures", {}).get("batch")),
            *((f"{kind} pictures", f"{count:,}") for kind, count in run.pictures.items()),
        ):
            if value:
                facts.setdefault(name, {})[str(value)] = None
    return [(name, " or ".join(values)) for name, values in facts.items()]


def _size(settings: dict[str, Any], name: str) -> str:
    return " × ".join(map(str, settings.get("pictures", {}).get(name, ())))


def _costs(record: ExperimentRecord, rows: Sequence[PaperRow]) -> Table:
    name = record.paper.sweep.symbol if record.paper.sweep else "recipe"
    return (
        (name, "steps in all", "minutes in all", "peak memory, GiB"),
        [(row.label, row.steps, minutes_text(row.minutes), spread_text(row.memory, 2)) for row in rows],
    )


def _markdown(content: dict[str, Any]) -> str:
    record, chart = content["record"], content["chart"]
    parts = [f"# {content['paper'].printed}: {content['paper'].question}"]
    parts.append(markdown_table(*content["scores"]))
    parts += content["notes"]
    if content["open"]:
        parts.append("Not finished, and not in the table: " + "; ".join(content["open"]) + ".")
    if chart:
        parts.append(f"![{chart.alt}]({record.name}.png)")
    parts += ["## How it was run", f"```sh\n{content['command']}\n```"]
    parts.append("; ".join(f"{name}: {value}" for name, value in content["facts"]) + ".")
    parts.append(markdown_table(*content["costs"]))
    if content["environment"]:
        parts.append("; ".join(f"{name} {value}" for name, value in content["environment"]) + ".")
    return "\n\n".join(parts) + "\n"
