"""Gather tables and figures and write them: one page that opens offline, each figure also as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .ablation_table import (
    AblationTable,
    ClassRow,
    Spread,
    adapted_recipe,
    build_ablation_table,
    per_class_rows,
    signed_number,
)
from .bank_charts import (
    Banks,
    draw_bank_fill,
    draw_bank_rows,
    read_banks,
)
from .costs import build_cost_rows, build_status_rows, environment_rows
from .curves import draw_label_free_curves, draw_loss_curves, draw_miou_curves, never_matched
from .drawn_figure import DARK, LIGHT, Drawn
from .markdown_tables import ablation_markdown, gain_text
from .picture_rows import PictureRows, build_picture_rows
from .previews import label_space
from .recipe_names import MEANINGS, SOURCE, TARGET_ONLY, title
from .region_pictures import RegionPictures, build_region_pictures
from .report_files import template, write_whole
from .results import Experiment, read_experiment
from .score_charts import draw_ablation, draw_class_scores
from .threshold_charts import (
    ThresholdTable,
    build_threshold_tables,
    draw_thresholds,
)

SMALLEST_GAP = 2.0  # points of mIoU between source only and target only of which a share is told


@dataclass(frozen=True)
class Content:
    """Everything the page shows; whatever could not be made yet is ``None`` and said so."""

    experiment: Experiment
    table: AblationTable
    per_class: tuple[ClassRow, ...]
    pictures: PictureRows | None
    regions: RegionPictures | None
    banks: Banks | None
    thresholds: tuple[ThresholdTable, ...]
    figures: dict[str, Drawn]
    label_free: tuple[Drawn, ...]
    losses: tuple[Drawn, ...]
    unmatched: tuple[str, ...]
    problems: tuple[str, ...]


def write_report(experiment: Path, out: Path | None = None) -> Path:
    """Write the report of one experiment and return its page.

    Args:
        experiment: Folder holding ``<recipe>/seed<k>/``. Missing and unfinished runs are named in the
            report; they are no error.
        out: Folder for ``index.html``, ``table.md`` and the figures; made where it does not exist.
            Default: ``experiment / "report"``.

    Returns:
        ``out / "index.html"``: one file with every picture inside, nothing to fetch.

    Raises:
        FileNotFoundError: If the folder is absent or holds no run at all.
    """
    content = gather_content(read_experiment(Path(experiment)))
    folder = Path(out) if out is not None else Path(experiment) / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _image_files(content).items():
        write_whole(folder / name, data)
    markdown = ablation_markdown(content.table, content.per_class, content.experiment.finished_recipes)
    write_whole(folder / "table.md", markdown)
    page = folder / "index.html"
    write_whole(page, render_page(content))
    return page


def gather_content(experiment: Experiment) -> Content:
    """Read, count and draw; nothing is written here."""
    space = label_space(experiment)
    table, per_class = build_ablation_table(experiment), per_class_rows(experiment)
    banks, bank_problems = read_banks(experiment, space)
    thresholds = build_threshold_tables(experiment)
    drawn = [
        draw_ablation(experiment, table),
        draw_class_scores(experiment, table, per_class),
        draw_miou_curves(experiment),
        *(draw_thresholds(one) for one in thresholds),
        draw_bank_fill(banks, space) if banks else None,
        draw_bank_rows(banks, space) if banks else None,
    ]
    return Content(
        experiment=experiment,
        table=table,
        per_class=per_class,
        pictures=build_picture_rows(experiment, space),
        regions=build_region_pictures(experiment, space),
        banks=banks,
        thresholds=thresholds,
        figures={figure.name: figure for figure in drawn if figure},
        label_free=draw_label_free_curves(experiment),
        losses=draw_loss_curves(experiment),
        unmatched=never_matched(experiment),
        problems=(
            *experiment.problems,
            *(p for run in experiment.runs for p in run.problems),
            *bank_problems,
        ),
    )


def render_page(content: Content) -> str:
    """The page as text."""
    experiment = content.experiment
    adapted = adapted_recipe(experiment)
    return template("page.html.j2").render(
        content=content,
        experiment=experiment,
        table=content.table,
        figures=content.figures,
        headline=headline_numbers(content.table, adapted),
        adapted=adapted,
        title=title,
        meanings=MEANINGS,
        status=build_status_rows(experiment),
        costs=build_cost_rows(experiment),
        environment=environment_rows(experiment.runs),
        light=LIGHT,
        dark=DARK,
        tint=_tint,
        gain=gain_text,
        signed=signed_number,
    )


def headline_numbers(table: AblationTable, adapted: str | None) -> tuple[tuple[str, str], ...]:
    """The three numbers that a reader looks for, and the share of the gap that adaptation closes.

    A share of a gap no larger than luck, or of one that adaptation widened, would be a number without a meaning.
    """
    rows = [row for name in (SOURCE, adapted, TARGET_ONLY) if name and (row := table.row(name)) and row.miou]
    numbers = [(f"{row.title}, mIoU", row.miou.text()) for row in rows if row.miou]
    if len(rows) == 3:
        low, middle, high = (row.miou.mean for row in rows if row.miou)
        if high - low >= SMALLEST_GAP and middle >= low:
            numbers.append(("of the gap to target only closed", f"{100 * (middle - low) / (high - low):.0f} %"))
    return tuple(numbers)


def _tint(cell: Spread | None) -> int:
    """Strength of a cell's background in percent: the table is its own heat map."""
    return 0 if cell is None else round(min(max(cell.mean, 0.0), 100.0) * 0.55)


def _image_files(content: Content) -> dict[str, bytes]:
    """Every figure under its file name; light ones bear the plain name."""
    files: dict[str, bytes] = {}
    for figure in (*content.figures.values(), *content.label_free, *content.losses):
        files[f"{figure.name}.png"] = figure.light
        files[f"{figure.name}-dark.png"] = figure.dark
    if content.pictures:
        files["pictures.png"] = content.pictures.sheet
    for number, row in enumerate(content.regions.rows if content.regions else (), 1):
        for kind, cell in zip(("truth", "prediction"), row, strict=True):
            files[f"regions_{number}_{kind}.png"] = cell.data
    return files
