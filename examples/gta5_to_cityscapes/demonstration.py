"""The whole thing in one go: draw the city, run the six recipes, write the report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .ablation_runs import Job
from .experiment import run_experiment
from .progress_display import ProgressDisplay
from .progress_events import Event, Watch
from .training_data import Folders
from .written_files import read_json, write_json


@dataclass(frozen=True)
class Budget:
    """How much of a city, and which size of recipes."""

    size: str
    source_images: int
    target_train: int
    target_val: int
    picture: tuple[int, int]  # (width, height), as the generator takes it

    @property
    def pictures(self) -> int:
        """All pictures to draw."""
        return self.source_images + self.target_train + self.target_val


BUDGETS = {
    "small": Budget("small", 400, 300, 100, (480, 240)),
    "smoke": Budget("smoke", 8, 8, 4, (192, 96)),
}
CITY_COST = 1.0  # of drawing, in units of a run on labelled pictures alone
REPORT_COST = 0.3


def city_folders(out: Path) -> Folders:
    """Where the generated city lies within an experiment."""
    return Folders(out / "city" / "gta5", out / "city" / "cityscapes")


def generate(folders: Folders, budget: Budget, seed: int, watch: Watch) -> None:
    """Draw the city unless the very same one is there already."""
    from examples.generated_city import generate_city

    root = folders.source.parent
    note = root / "city.json"
    asked = {"seed": seed, **{name: getattr(budget, name) for name in ("source_images", "target_train", "target_val")}}
    asked["picture"] = list(budget.picture)
    if note.is_file() and read_json(note) == asked:
        watch(Event("city", budget.pictures, budget.pictures, "already drawn", "finished"))
        return
    generate_city(
        root,
        source_images=budget.source_images,
        target_train=budget.target_train,
        target_val=budget.target_val,
        size=budget.picture,
        seed=seed,
        workers=os.cpu_count() or 1,
        progress=lambda done: watch(Event("city", done, budget.pictures, "drawing")),
    )
    write_json(note, asked)
    watch(Event("city", budget.pictures, budget.pictures, "drawn", "finished"))


def write_report_of(experiment: Path, watch: Watch) -> Path | None:
    """The report page, or None where the packages it needs are not installed."""
    try:
        from .report import write_report
    except ImportError as error:
        watch(Event("report", 1, 1, f"not written: {error}", "failed"))
        return None
    watch(Event("report", 0, 1, "writing"))
    page = write_report(experiment, experiment / "report")
    watch(Event("report", 1, 1, "written", "finished"))
    return page


def run_demonstration(jobs: Sequence[Job], out: Path, budget: str, seed: int, processes: int) -> Path | None:
    """All of it under one progress display."""
    folders = city_folders(out)
    costs = {job.name: job.cost for job in jobs} | {"city": CITY_COST, "report": REPORT_COST}
    with ProgressDisplay(costs, overall="demo") as display:
        generate(folders, BUDGETS[budget], seed, display)
        run_experiment(jobs, folders, torch.device("cpu"), display, processes=processes)
        return write_report_of(out, display)
