"""The two pages of an experiment: its report, and one of the paper's experiments beside the paper.

The report shows what the recipes reached, how training went, and what matching saw; the other page the published
scores, what was run, and its cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..methods import loss_titles
from ..recipes import Variant, parts
from ..run_dir import ExperimentRecord
from . import tables
from .charts import (
    Chart,
    draw_banks,
    draw_class_scores,
    draw_curves,
    draw_scores,
    draw_sweep,
    draw_thresholds,
    recipe_lines,
)
from .images import draw_previews, draw_region_rows, preview_runs
from .page import Block, Page, chart_block, facts, table_blocks, write_page
from .results import (
    MEANINGS,
    SOURCE,
    TARGET_ONLY,
    Experiment,
    Run,
    mapping,
    numeric,
    read_banks,
    read_experiment,
    sum_of_parts,
    title,
)
from .tables import DASH, IN_ALL, ONE_SEED, ScoreTable, number_text, score_curve, score_table, spread

SMALLEST_GAP = 2.0  # points of mIoU between source only and target only of which a share is printed
LINE_LENGTH = 88  # of the command, so that a page of the site shows it whole


def write_report(experiment: Path, out: Path | None = None) -> Path:
    """Write the report of one experiment and return its page.

    Args:
        experiment: Folder holding ``<recipe>/seed<k>/``. Missing and unfinished runs are not errors; the report names
            them.
        out: Folder for ``index.html``, ``table.md`` and the figures, made where it does not exist.
            Default: ``experiment / "report"``.

    Returns:
        ``out / "index.html"``: one file with every figure inside, without external resources.

    Raises:
        FileNotFoundError: If the folder is absent or does not hold a run.
    """
    folder = Path(out) if out is not None else Path(experiment) / "report"
    page = report_page(read_experiment(Path(experiment)))
    return write_page(page, folder, "index", "table", sections=("Ablation", "IoU per class"))


def report_page(experiment: Experiment) -> Page:
    """Everything that the runs of an experiment have left so far."""
    table = tables.ablation(experiment)
    unfinished = table.unfinished(begun=True)
    banks, damaged = _banks(experiment)
    problems = (*experiment.problems, *(text for run in experiment.runs for text in run.problems), *damaged)
    counted = ((experiment.runs, "run"), (experiment.recipes, "recipe"), (experiment.seeds, "seed"))
    runs, recipes, seeds = (f"{len(each)} {name}{'s' * (len(each) != 1)}" for each, name in counted)
    one_seed = f" {ONE_SEED.capitalize()}." if table.one_seed else ""
    return Page(
        heading="From one domain to another: what each part adds",
        lead=f"{runs} of {recipes} over {seeds} in “{experiment.folder.name}”. The last checkpoint is the result; no "
        f"checkpoint was chosen by its score.{one_seed}",
        numbers=headline_numbers(table, tables.adapted_recipes(experiment)),
        incomplete=[*table_blocks(unfinished), *({"note": text} for text in problems)],
        sections={
            "Ablation": _ablation(experiment, table),
            "IoU per class": _classes(experiment, table),
            "Curves": _curves(experiment),
            "Images and regions": _images(experiment),
            "Banks": banks,
            "Thresholds and pseudo-labels": _thresholds(experiment),
            "Cost": _costs(experiment, table),
        },
    )


def headline_numbers(table: ScoreTable, adapted: Sequence[str]) -> list[tuple[str, str]]:
    """Source only, adapted and target only, and the shares of the gap that adaptation closes.

    A share of a gap within seed variance, or of one that adaptation widened, would not mean anything.
    """
    keys = [key for key in (SOURCE, *adapted, TARGET_ONLY) if key in table.titles and table.scores[key].count()]
    numbers = [(f"{table.titles[key]}, mIoU", spread(table.scores[key])) for key in keys]
    means = table.scores[keys].mean()
    low, high = means.get(SOURCE, math.nan), means.get(TARGET_ONLY, math.nan)
    for key in adapted:
        if high - low >= SMALLEST_GAP and means.get(key, math.nan) >= low:
            share = 100 * (means[key] - low) / (high - low)
            numbers.append((f"of the gap to target only closed by “{table.titles[key]}”", f"{share:.0f} %"))
    return numbers


def _ablation(experiment: Experiment, table: ScoreTable) -> list[Block]:
    classes, scores = experiment.scored_classes, tables.class_scores(experiment).values()
    scope = f"Scored: {len(classes)} classes ({', '.join(classes)})." if classes else "Classes are not recorded."
    if absent := [name for name in classes if scores and all(each[name].isna().all() for each in scores)]:
        scope += f" The mean is over the {len(classes) - len(absent)} that occur; these never do: {', '.join(absent)}."
    counted = sorted({int(count) for each in scores for count in each.notna().sum(axis=1)})
    if len(counted) > 1:
        scope += (
            f" In the runs it is over {counted[0]} to {counted[-1]} classes: one without a pixel in the labels "
            "counts, as 0, where a run predicts it."
        )
    frame = table.frame(name_compared=True)
    for name in IN_ALL:
        frame[name] = [tables.cost_text(name, costs[name]) for costs in table.costs.values()]
    return [
        {"text": f"mIoU in percent at the last checkpoint; {table.spread}. {scope}"},
        {
            "table": frame,
            "names": list(table.titles),
            "notes": [_meaning(key, table.runs[key]) for key in table.titles],
        },
        {
            "note": f"{_paper_note(tables.published_source(experiment))}A gain is taken seed by seed over the row "
            "above or the one named, from seeds that both have; one smaller than its ± may be seed variance. In all: "
            "with the runs that a recipe depends on, each counted once."
        },
        chart_block(
            draw_scores("ablation", table.scores, table.titles),
            "No run has finished yet.",
        ),
    ]


def _paper_note(source: str) -> str:
    if not source:
        return ""
    return (
        f"In the paper: Table 2, {source} → Cityscapes. Its numbers come from other data, a larger network and a far "
        "longer training: compare the direction of the steps, not the values. "
    )


def _meaning(recipe: str, runs: Sequence[Run]) -> str:
    needed = dict.fromkeys(name for run in runs for name in run.depends_on)
    if recipe in MEANINGS:
        return MEANINGS[recipe]
    known = parts()[recipe][1].meaning if recipe in parts() else ""
    return "; ".join(each for each in (known, f"depends on {' and '.join(needed)}" if needed else "") if each)


def _classes(experiment: Experiment, table: ScoreTable) -> list[Block]:
    scores = tables.class_scores(experiment)
    frame = pd.DataFrame({title(name): [spread(each[k]) for k in each] for name, each in scores.items()})
    if frame.empty:
        return [{"note": "No run has written scores per class yet."}]
    frame.insert(0, "class", experiment.scored_classes)
    chart = draw_class_scores(scores, table.scores.mean())
    return [*([{"chart": chart}] if chart else []), {"table": frame}]


def _curves(experiment: Experiment) -> list[Block]:
    lines = {title(name): line for name, line in recipe_lines(experiment.recipes).items()}
    runs = {title(name): experiment.of(name) for name in experiment.recipes}
    miou, entropy, density = (
        {label: score_curve(each, score) for label, each in runs.items()} for score in ("miou", "entropy", "density")
    )
    logged = {key.removeprefix("loss/") for run in experiment.runs for key in run.training if key.startswith("loss/")}
    titles = {name: text for name, text in loss_titles().items() if name in logged}
    titles |= {name: name for name in sorted(logged.difference(titles))}
    furthest = max(run.last_step for run in experiment.runs)
    losses = {
        text: {label: tables.loss_curve(each, name, furthest) for label, each in runs.items()}
        for name, text in titles.items()
    }
    percent = {"mIoU, %": {label: 100 * curve for label, curve in miou.items()}}
    free = {"Entropy of the predictions": entropy, "Soft neighborhood density": density}
    matching = [title(name) for name in experiment.recipes if "sim" in name.split("+")]
    without = [
        f"{titles[name]}: nothing was matched by {', '.join(unused)}."
        for name in ("stuff", "instance")
        if (unused := [label for label in matching if name in titles and losses[titles[name]][label].empty])
    ]
    return [
        chart_block(draw_curves("miou_curves", percent, lines, large=True), "No run has been evaluated yet."),
        chart_block(draw_curves("label_free", free, lines), "No run has recorded entropy and density yet."),
        chart_block(draw_curves("losses", losses, lines), "No losses have been logged yet."),
        *({"note": text} for text in without),
    ]


def _images(experiment: Experiment) -> list[Block]:
    runs, space = preview_runs(experiment), experiment.space
    if not runs:
        return [{"note": "No run has written previews yet."}]
    shown = " and ".join(f"“{title(r.recipe)}”{'' if r.finished else ' (unfinished)'}, seed {r.seed}" for r in runs)
    most = int(numeric(runs[-1].setting("matching", "max_instances"), 10))
    things = f"Outlined are the {most} largest connected regions of each thing class, the only ones that are matched."
    return [
        {"text": f"Predictions of {shown}. The images are the same for every run; none was chosen by hand."},
        chart_block(draw_previews(runs, space), "The previews of the runs are of different images."),
        chart_block(draw_region_rows(runs[-1], space, most), ""),
        {"note": f"{things} Stuff is one region per class: {', '.join(space.names[k] for k in space.stuff)}."},
    ]


def _banks(experiment: Experiment) -> tuple[list[Block], tuple[str, ...]]:
    banks, problems = read_banks(experiment)
    if banks is None:
        return [{"note": "No checkpoint holds banks yet: recipes with SIM write them."}], problems
    source = f"“{title(banks.run.recipe)}”, seed {banks.run.seed}"
    text = f"From the last checkpoint of {source}: rows of {banks.stuff.feature_dim} numbers."
    return [{"text": text}, *({"chart": chart} for chart in draw_banks(banks, experiment.space))], problems


def _thresholds(experiment: Experiment) -> list[Block]:
    blocks: list[Block] = []
    for recipe in experiment.recipes:
        runs = [run for run in experiment.of(recipe) if mapping(run.thresholds, "thresholds")]
        if not runs:
            continue
        found, rule = tables.thresholds(runs), str(runs[0].setting("pseudo_labels", "rule") or "median")
        quantile, cap = (numeric(runs[0].setting("pseudo_labels", k), v) for k, v in (("quantile", 0.5), ("cap", 0.9)))
        cap = cap if rule in ("median", "symmetric") else math.nan
        total = spread(100 * numeric(run.thresholds.get("kept_total")) for run in runs)
        columns = {
            "threshold": ("threshold", 3),
            "kept, %": ("kept", 1),
            "share of predicted pixels, %": ("predicted", 2),
        }
        cells = {head: [spread(found[k][name], d) for name in found[k]] for head, (k, d) in columns.items()}
        blocks += [
            {"heading": title(recipe)},
            {"text": f"{total} % of all target pixels became pseudo-labels."},
            {"rule": rule, "quantile": quantile, "cap": cap},
            {"chart": draw_thresholds(recipe, found, cap)},
            {"table": pd.DataFrame({"class": list(found["threshold"]), **cells})},
        ]
    return blocks or [
        {"note": "No run has made pseudo-labels yet: they belong to recipes with self-training, such as SSL."}
    ]


def _costs(experiment: Experiment, table: ScoreTable) -> list[Block]:
    costs = table.cost_frame([name for name in tables.COSTS if name not in IN_ALL])
    return [*table_blocks(costs), *facts(experiment.runs)]


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
