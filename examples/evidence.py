"""Evidence: what each recipe gains on four pairs of street data sets, from the runs to the tables of a page.

``run`` trains the recipes of one track with the pipeline's ``ablation`` command and resumes where it was stopped;
``second-stage`` trains stages that differ in one part, on the labels or from the weights of one network; ``collect``
writes the scores of all finished runs to one JSON file; ``tables`` prints that file as the Markdown tables of
``docs/evidence.md``: means over seeds, and differences that are paired by seed, with Student's 95 % interval.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from scipy import stats

from examples.gta5_to_cityscapes.atomic_io import read_json, written_beside
from examples.gta5_to_cityscapes.console import escape_unprintable
from examples.gta5_to_cityscapes.report.page import markdown_table

SCORES = Path(__file__).parents[1] / "docs" / "evidence.json"
LADDER = ("source", "it", "aa+it", "aa+it+sim", "aa+it+sim+ssl", "target-only")
OTHERS = ("sim", "it+sim", "fada", "mix", "sim+mix")
FORMS = ("ssl", "sim+ssl", "bcon+ssl", "dcon+ssl", "rcon+ssl")
MIXING = ("wmix", "sim+wmix", "bcon+wmix", "wmix+dcon", "rcon+wmix")
MATCHING = ("sim", "bcon", "dcon", "rcon")  # the words of recipes that match
SETTINGS = (
    "data.source_size=[144,192]",
    "data.target_size=[144,192]",
    "augmentation.crop=[120,160]",
    "schedule.max_steps=500",
    "schedule.decay_steps=500",
    "schedule.evaluate_every=500",
    "schedule.save_every=250",
    "evaluation.previews=0",
    "runtime.tensorboard=false",
)
ONE_BY_ONE, SECOND_STAGES = ",".join((*LADDER, *OTHERS)), ",".join((*FORMS, *MIXING))


@dataclass(frozen=True)
class Track:
    """A labeled source, an unlabeled target, and the classes that both have."""

    title: str
    source: str  # a folder below that of the data, as is the target
    source_layout: str
    target: str
    class_file: str


TRACKS = {
    "city-camvid": Track("generated city → CamVid, 11 classes", "city/gta5", "gta5", "camvid", "camvid11_label_ids"),
    "city-idd": Track("generated city → IDD-Lite, 7 classes", "city/gta5", "gta5", "idd_lite", "idd7"),
    "camvid-idd": Track("CamVid → IDD-Lite, 7 classes", "camvid", "cityscapes", "idd_lite", "idd7"),
    "idd-camvid": Track("IDD-Lite → CamVid, 7 classes", "idd_lite", "cityscapes", "camvid", "idd7_source"),
}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
TrackName = Annotated[str, typer.Argument(help=f"One of {', '.join(TRACKS)}.")]
DataFolder = Annotated[Path, typer.Argument(help="Folder that holds city/, camvid/ and idd_lite/.", metavar="DATA")]
RecipeNames = Annotated[str, typer.Option(help="Names, separated by commas.")]
Seeds = Annotated[str, typer.Option(help="Numbers, separated by commas.")]
Jobs = Annotated[int, typer.Option(help="Runs at a time, one thread each where there are as many cores.")]
RunsFolder = Annotated[Path, typer.Argument(help="Folder of the runs, TRACK/RECIPE/seedK/.", metavar="RUNS")]
ScoresFile = Annotated[Path, typer.Option(help="The JSON file of the scores.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="A setting of the pipeline, GROUP.NAME=VALUE.")]
Note = Annotated[str, typer.Option(help="Put behind the names of the recipes: the setting that these runs share.")]


@app.command()
def run(
    track: TrackName,
    data: DataFolder,
    runs: RunsFolder,
    recipes: RecipeNames = ONE_BY_ONE,
    seeds: Seeds = "0,1,2",
    jobs: Jobs = 2,
) -> None:
    """Train recipes of one track; what is finished is kept."""
    raise typer.Exit(_pipeline("ablation", track, data, runs, {"recipes": recipes, "seeds": seeds, "jobs": jobs}))


@app.command()
def second_stage(
    track: TrackName,
    data: DataFolder,
    runs: RunsFolder,
    recipes: RecipeNames = SECOND_STAGES,
    seeds: Seeds = "0,1,2",
    jobs: Jobs = 2,
    first: Annotated[Path | None, typer.Option(help="RUNS of the source-only runs, where they are elsewhere.")] = None,
    overrides: Overrides = None,
) -> None:
    """Train stages on the labels, or from the weights, of the track's source-only runs, which exist already."""
    changed = [word for setting in overrides or () for word in ("--set", setting)]

    def train(run: tuple[str, str]) -> int:
        recipe, seed = run
        before = (first or runs) / track / "source" / f"seed{seed}"
        return _pipeline("train", track, data, runs, {"seed": seed, "threads": 1, "from": before}, recipe, *changed)

    with ThreadPoolExecutor(jobs) as pool:  # the status of a run that a signal ended is negative
        raise typer.Exit(int(any(pool.map(train, product(recipes.split(","), seeds.split(","))))))


def _pipeline(command: str, track: str, data: Path, runs: Path, options: dict[str, object], *words: str) -> int:
    """Run a command of the pipeline on a track, and give its exit status."""
    if track not in TRACKS:
        raise typer.BadParameter(f"track must be one of {', '.join(TRACKS)}, got {track!r}")
    chosen = TRACKS[track]
    options = {
        "source": data / chosen.source,
        "source-layout": chosen.source_layout,
        "target": data / chosen.target,
        "class-file": chosen.class_file,
        "out": runs / track,
        **options,
    }
    said = [f"--{name}={value}" for name, value in options.items()]
    said += [word for setting in SETTINGS for word in ("--set", setting)]
    line = [sys.executable, "-m", "examples.gta5_to_cityscapes", command, *said, *words]
    return subprocess.run(line, check=False, cwd=Path(__file__).parents[1]).returncode


@app.command()
def collect(runs: RunsFolder, scores: ScoresFile = SCORES, note: Note = "") -> None:
    """Write the scores of all finished runs below RUNS, beside those of other runs that the file has."""
    rows = {_identity(row): row for row in read_rows(scores)} if scores.exists() else {}
    for result in sorted(runs.glob("*/*/seed*/result.json")):
        found = read_json(result)
        row = {
            "track": result.parts[-4],
            "recipe": f"{found['recipe']} {note}".rstrip(),
            "seed": found["seed"],
            "miou": round(100 * found["miou"], 2),
            "iou": {name: None if iou is None else round(100 * iou, 1) for name, iou in found["iou"].items()},
        }
        rows[_identity(row)] = row
    lines = ",\n".join(json.dumps(rows[key]) for key in sorted(rows))
    with written_beside(scores) as beside:
        beside.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


@app.command()
def tables(scores: ScoresFile = SCORES) -> None:
    """Print the tables of all tracks as Markdown."""
    frame = pd.DataFrame(read_rows(scores))
    for track, of_track in frame.groupby("track", sort=False):
        typer.echo(f"### {TRACKS[str(track)].title}\n")
        by_seed = of_track.pivot(index="seed", columns="recipe", values="miou")
        typer.echo(f"{markdown_table(means(by_seed))}\n")
        if len(pairs := gains_of_matching(by_seed)):
            typer.echo(f"{markdown_table(pairs)}\n")


def in_order(recipes: Iterable[str]) -> list[str]:
    """Recipes in the order of the tables: the ladder, other first stages, second stages, and all others."""
    places = {name: place for place, name in enumerate((*LADDER, *OTHERS, *FORMS, *MIXING))}
    return sorted(recipes, key=lambda name: (places.get(_without_note(name), len(places)), name))


def without_matching(recipe: str) -> str:
    """The same recipe without matching; itself where that would start elsewhere, as the ladder's last rung."""
    name = _without_note(recipe)
    words = name.split("+")
    if {"ssl", "wmix"} & {*words} and name not in (*FORMS, *MIXING):
        return recipe
    return "+".join(word for word in words if word not in MATCHING) or "source"


def _without_note(recipe: str) -> str:
    return recipe.partition(" ")[0]


def means(by_seed: pd.DataFrame) -> pd.DataFrame:
    """The recipes' mIoU (one row a seed, one column a recipe) as a table: mean, gain over source, share of the gap.

    Gains and the gap are means over the seeds that both have.
    """
    rows = []
    gap = (by_seed["target-only"] - by_seed["source"]).mean() if "target-only" in by_seed else float("nan")
    for recipe in in_order(by_seed.columns):
        gain = (by_seed[recipe] - by_seed["source"]).dropna()
        adapts = recipe not in ("source", "target-only")
        rows.append(
            {
                "recipe": recipe,
                "mIoU": f"{by_seed[recipe].mean():.1f}",
                "seeds": ", ".join(f"{score:.1f}" for score in by_seed[recipe].dropna()),
                "gain over source": interval(gain) if recipe != "source" else "",
                "share of the gap": f"{round(gain.mean() / gap, 2) + 0.0:.0%}" if adapts and gap > 0 else "",
            }
        )
    return pd.DataFrame(rows)


def gains_of_matching(by_seed: pd.DataFrame) -> pd.DataFrame:
    """What matching adds to a recipe, paired by seed."""
    pairs = [(recipe, without_matching(recipe)) for recipe in in_order(by_seed.columns)]
    known = [(recipe, other) for recipe, other in pairs if other != recipe and other in by_seed]
    differences = {pair: (by_seed[pair[0]] - by_seed[pair[1]]).dropna() for pair in known}
    return pd.DataFrame(
        [
            {"with matching": pair[0], "without": pair[1], "seeds": len(gain), "gain": interval(gain)}
            for pair, gain in differences.items()
        ]
    )


def interval(gains: pd.Series) -> str:
    """Mean of paired differences with its 95 % interval by Student's t; of one seed the difference alone."""
    mean = gains.mean()
    if len(gains) < 2:
        return f"{_signed(mean)} (one seed)"
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std() / len(gains) ** 0.5
    return f"{_signed(mean)} ({_signed(mean - half)} to {_signed(mean + half)})"


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}"  # the sum has no negative zero


def read_rows(scores: Path) -> list[dict[str, Any]]:
    """The rows of a JSON file that ``collect`` wrote."""
    rows: list[dict[str, Any]] = json.loads(scores.read_text(encoding="utf-8"))
    return rows


def _identity(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["track"], row["recipe"], row["seed"]


if __name__ == "__main__":
    escape_unprintable()
    app()
