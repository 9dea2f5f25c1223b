"""The page of one experiment of the paper: scores beside the published ones, what was run, and its cost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..recipes import Variant
from ..run_dir import ExperimentRecord
from .charts import Chart, draw_curves, draw_scores, draw_sweep, recipe_lines
from .page import Block, Page, chart_block, facts, table_blocks, write_page
from .recipe_names import sum_of_parts, title
from .results import Experiment, read_experiment
from .tables import DASH, IN_ALL, ScoreTable, number_text, score_curve, score_table

LINE_LENGTH = 88  # of the command, so that a page of the site shows it whole


def write_paper_page(record: ExperimentRecord, folder: Path) -> Path:
    """Write ``report/<name>.html``, ``<name>.md`` and the chart of an experiment, finished or not.

    Args:
        record: Which experiment.
        folder: Holds its runs.

    Returns:
        The page: one file with the chart inside, without external resources.
    """
    paper, table = record.paper, paper_table(record, folder)
    symbol = paper.sweep.symbol if paper.sweep else "recipe"
    costs = table.cost_frame([*IN_ALL, "peak memory, GiB"]).rename(columns={"recipe": symbol})
    unfinished = table.unfinished().rename(columns={"recipe": symbol})
    scores: list[Block] = [
        {"table": _frame(record, table)},
        *({"note": text} for text in _notes(record, table)),
        chart_block(_draw(record, table), "No run has been scored yet."),
    ]
    made: list[Block] = [{"code": command(record)}, *table_blocks(costs)]
    page = Page(
        heading=f"{paper.printed}: {paper.question}",
        incomplete=table_blocks(unfinished),
        lead="" if paper.sweep else "All curves and images of these runs are in index.html beside this page.",
        sections={
            "Beside the paper": scores,
            "How it was run": [*made, *facts([run for runs in table.runs.values() for run in runs])],
        },
    )
    return write_page(page, folder / "report", record.name, record.name)


def command(record: ExperimentRecord) -> str:
    """What to type for the same runs; files of this machine by their names alone."""
    words = [
        f"python -m examples.gta5_to_cityscapes experiment {record.name} --preset {record.preset}",
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


def paper_table(record: ExperimentRecord, folder: Path) -> ScoreTable:
    """Every row of the experiment, run or not, by the folder or the recipe of its variant."""
    paper, rows, base = record.paper, {}, None
    for variant in record.variants:
        try:
            experiment = read_experiment(folder / variant.folder)
        except FileNotFoundError:  # none of its runs has begun
            experiment = Experiment(folder / variant.folder, ())
        name = sum_of_parts(variant.recipe) if paper.curve else title(variant.recipe)
        label = name if variant.value is None else f"{variant.value:g}"
        rows[_key(variant)] = (label, experiment, variant.recipe)
        base = _key(variant) if variant.default or (paper.curve and base is None) else base
    keys = list(rows)
    over = {
        key: (None if key == base else base) if base else above for above, key in zip([None, *keys], keys, strict=False)
    }
    return score_table(rows, record.seeds, over, {_key(variant): variant.published for variant in record.variants})


def _key(variant: Variant) -> str:
    return variant.folder or variant.recipe


def _frame(record: ExperimentRecord, table: ScoreTable) -> pd.DataFrame:
    """The scores as they are printed, with the paper's values of a sweep or the highest point of a curve."""
    frame, sweep = table.frame(), record.paper.sweep
    if sweep:
        frame = frame.rename(columns={"recipe": f"{sweep.symbol} here"})
        frame.insert(1, f"{sweep.symbol}, paper", [f"{variant.published_value:g}" for variant in record.variants])
    if record.paper.curve:
        means = [100 * score_curve(runs, "miou").mean(axis=1) for runs in table.runs.values()]
        frame.insert(1, "highest mean", [number_text(mean.max()) for mean in means])
        frame.insert(2, "at step", [f"{mean.idxmax():,}" if len(mean) else DASH for mean in means])
    return frame


def _draw(record: ExperimentRecord, table: ScoreTable) -> Chart | None:
    paper, titles = record.paper, table.titles
    if paper.sweep:
        values = {_key(variant): variant.value or 0.0 for variant in record.variants}
        return draw_sweep(record.name, table, values, paper.sweep, paper.printed)
    if paper.curve:
        lines = {titles[key]: line for key, line in recipe_lines(list(titles)).items()}
        curves = {titles[key]: 100 * score_curve(runs, "miou") for key, runs in table.runs.items()}
        return draw_curves(record.name, {"mIoU, %": curves}, lines, large=True)
    return draw_scores(record.name, table.scores, titles, table.published, paper.printed)


def _notes(record: ExperimentRecord, table: ScoreTable) -> list[str]:
    """Without these the table cannot be read."""
    paper, sweep = record.paper, record.paper.sweep
    over = f"the paper's choice, its {sweep.symbol} = {sweep.default:g}" if sweep else "the row above"
    over = next(iter(table.titles.values())) if paper.curve else over
    notes = [
        f"mIoU in percent at the last checkpoint; {table.spread}. Gain: seed by seed over {over}.",
        f"In the paper: {paper.data}{', 13 classes' if paper.classes == '13' else ''}."
        + (" Here: the generated city in the same layouts." if record.generated else ""),
    ]
    if not record.preset.startswith("full"):
        notes.append(
            "The paper's numbers come from other images, a larger network and a far longer training: compare the "
            "direction of the steps, not the values."
        )
    if sweep and any(variant.value != variant.published_value for variant in record.variants):
        notes.append(
            f"The values of {sweep.symbol} are the paper's multiples of {sweep.group}.{sweep.setting} in this preset."
        )
    if sweep and sweep.note:
        notes.append(sweep.note)
    if paper.curve:
        notes.append(
            "The highest mean is chosen by the target's labels: it shows what was lost afterwards and is not a "
            "result. The paper prints the curves alone; 41.4 is from its Table 2."
        )
    return notes
