"""The paper's experiments by one command: their plans, their pages, and the look at all of it before it runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from examples.gta5_to_cityscapes import preflight as checked_runs
from examples.gta5_to_cityscapes.atomic_io import DamagedFileError
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments.city import BUDGETS, Budget, is_city
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan_paper_experiment
from examples.gta5_to_cityscapes.input_files import InputFiles
from examples.gta5_to_cityscapes.preflight import (
    Finding,
    Findings,
    Measured,
    check_memory,
    check_plan,
    check_style_transfer,
)
from examples.gta5_to_cityscapes.recipes import ABLATION, PAPER_EXPERIMENTS, RecipeError, compose_recipe
from examples.gta5_to_cityscapes.report import write_paper_page
from examples.gta5_to_cityscapes.report.page import facts
from examples.gta5_to_cityscapes.report.pages import command
from examples.gta5_to_cityscapes.report.results import read_run
from examples.gta5_to_cityscapes.run_dir import Event, ExperimentRecord, RunFolderError, read_record
from examples.gta5_to_cityscapes.training.timed_steps import TimedSteps, time_steps

from .commands import data, in_one_line, invoke, settings
from .test_report import make_run

CPU = torch.device("cpu")

# As printed in the paper (CVPR 2020), tables 2, 3, 4 and 6.
TABLE2 = (36.6, 41.4, 44.9, 46.2, 49.2, 65.1)
TABLE3 = {0.1: 43.4, 0.05: 44.2, 0.01: 46.2, 0.005: 45.4, 0.001: 45.5}
TABLE4 = {10: 45.2, 50: 46.2, 200: 46.1, 800: 45.3, 1600: 45.0}
TABLE6 = (38.6, 45.9, 46.0, 47.1, 52.1, 71.7)


def record_of(name: str, size: str = "smoke", *settings: str, seeds: tuple[int, ...] = (0,)) -> ExperimentRecord:
    return ExperimentRecord(name, size, seeds, settings)


# --- plans


@pytest.mark.parametrize(("name", "group", "printed"), [("table3", "weight", TABLE3), ("table4", "capacity", TABLE4)])
def test_a_sweep_at_full_size_runs_the_papers_values(name: str, group: str, printed: dict[float, float]) -> None:
    record = record_of(name, "full")
    jobs = plan_paper_experiment(record, Path("exp"))
    assert [getattr(job.recipe.methods["matching"], group) for job in jobs] == list(printed)
    assert {v.published_value: v.published for v in record.variants} == printed
    assert [v.value for v in record.variants] == list(printed)
    assert [v.published for v in record.variants if v.default] == [46.2]
    assert {job.recipe.name for job in jobs} == {"aa+it+sim"}
    assert {job.recipe.schedule.max_steps for job in jobs} == {200_000}


def test_elsewhere_a_sweep_runs_the_same_multiples_of_the_setting() -> None:
    def values(size: str, *settings: str) -> list[float | None]:
        return [variant.value for variant in record_of("table4", size, *settings).variants]

    assert values("small") == [4, 20, 80, 320, 640]
    assert values("small", "matching.capacity=100") == [20, 100, 400, 1600, 3200]
    assert [v.value for v in record_of("table3", "small").variants] == list(TABLE3)
    (first, *_) = plan_paper_experiment(record_of("table4", "small", "matching.capacity=100"), Path("exp"))
    assert "matching" in first.recipe.methods
    assert first.recipe.methods["matching"].capacity == 20
    assert first.run.path == Path("exp/capacity-20/aa+it+sim/seed0")


@pytest.mark.parametrize(("name", "setting"), [("table4", "matching.capacity=1"), ("table3", "matching.weight=0")])
def test_values_that_fall_together_are_rejected(name: str, setting: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} varies matching"):
        plan_paper_experiment(record_of(name, "smoke", setting), Path("exp"))


@pytest.mark.parametrize(("name", "printed"), [("table2", TABLE2), ("table6", TABLE6)])
def test_an_ablation_has_the_papers_six_rows(name: str, printed: tuple[float, ...]) -> None:
    record = record_of(name, "full", seeds=(0, 1))
    jobs = plan_paper_experiment(record, Path("exp"))
    assert [(v.recipe, v.published) for v in record.variants] == list(zip(ABLATION, printed, strict=True))
    assert [job.recipe.seed for job in jobs] == [0] * 6 + [1] * 6  # an early look compares whole rows
    assert len({job.run.path for job in jobs}) == 12
    (second,) = {job.needs for job in jobs if job.recipe.name == "aa+it+sim+ssl" and job.recipe.seed == 0}
    assert [run.path for run in second] == [Path("exp/aa+it+sim/seed0")]
    assert {job.recipe.layouts.source for job in jobs} == {"synthia" if name == "table6" else "gta5"}
    assert {len(job.recipe.classes) for job in jobs} == {13 if name == "table6" else 19}


def test_a_curve_is_tested_as_often_as_the_papers() -> None:
    def every(size: str, *settings: str) -> set[int]:
        jobs = plan_paper_experiment(record_of("figure2", size, *settings), Path("exp"))
        assert [job.recipe.name for job in jobs] == ["aa", "aa+sim"]
        return {job.recipe.schedule.evaluate_every for job in jobs}

    assert every("full") == {5000}
    assert every("small", "schedule.max_steps=400") == {10}
    assert every("small", "schedule.evaluate_every=7") == {7}


def test_events_name_the_runs_of_a_sweep(streets: Folders, quiet: list[str], tmp_path: Path) -> None:
    record = record_of("table3", "smoke", *quiet, "schedule.max_steps=1")
    job = plan_paper_experiment(record, tmp_path)[1]
    events: list[Event] = []
    carry_out(job, streets, CPU, events.append)
    assert {event.task for event in events} == {"weight-0.05 aa+it+sim seed 0"}


# --- what a folder holds


def test_a_folder_is_one_experiments(tmp_path: Path) -> None:
    record_of("table3", "small", "a.b=1", seeds=(2, 0)).claim(tmp_path)
    record_of("table3", "small", "a.b=1", seeds=(1,)).claim(tmp_path)
    assert read_record(tmp_path) == record_of("table3", "small", "a.b=1", seeds=(0, 1, 2))
    for other in (record_of("table4", "small", "a.b=1"), record_of("table3", "full", "a.b=1"), record_of("table3")):
        with pytest.raises(RunFolderError, match=r"the folder holds table3 in preset small with a\.b=1"):
            other.claim(tmp_path)


@pytest.mark.parametrize("content", ['{"name": "table3"}', '{"name": "x", "preset": "s", "seeds": [], "settings": []}'])
def test_a_damaged_record_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"experiment\.json: expected"):
        read_record(tmp_path)


# --- pages


def page_of(record: ExperimentRecord, folder: Path) -> tuple[str, str]:
    """The page as HTML and as Markdown."""
    page = write_paper_page(record, folder)
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")


def test_a_sweeps_page_sets_our_numbers_beside_the_papers(tmp_path: Path) -> None:
    record = replace(
        record_of("table4", "small", "style_transfer.method=/some/where/transferred", seeds=(0, 1)), generated=True
    )
    for variant, scores in zip(record.variants, ((20.0, 22.0), (23.0, 25.0), (24.0, None), (), ()), strict=True):
        for seed, miou in enumerate(scores):
            make_run(tmp_path / variant.folder, variant.recipe, seed, miou)
    html, text = page_of(record, tmp_path)
    assert "| 4 | 10 | 21.0 ± 1.4 | −3.0 ± 0.0 | 2 | 45.2 | −1.0 |" in text
    assert "| 20 | 50 | 24.0 ± 1.4 | – | 2 | 46.2 | – |" in text
    assert "| 80 | 200 | 24.0 | +1.0 | 1 of 2 | 46.1 | −0.1 |" in text
    assert "| 640 | 1600 | no finished run | – | 0 of 2 | 45.0 | −1.2 |" in text
    assert (
        "| 80 | seed 1: step 50 of 100, last evaluation 6.0 mIoU at step 40 |\n| 320 | seeds 0, 1: not begun |" in text
    )
    assert "multiples of matching.capacity in this preset" in text
    assert "compare the direction" in text
    assert text.startswith("# Table 4: How many rows of a class should its bank hold?")
    assert "In the paper: GTA5 → Cityscapes. Here: the generated city in the same layouts." in text
    assert "--generate --out OUT" in text
    for said in ("21.0 ± 1.4", "seed 1: step 50 of 100", "style_transfer.method=transferred"):
        assert said in html
    assert "/some/where" not in html + text
    assert (tmp_path / "report" / "table4.png").stat().st_size > 10_000


def test_a_ladders_page_compares_with_the_row_above(tmp_path: Path) -> None:
    for recipe, miou in (("source", 20.0), ("aa", 24.5), ("aa+it+sim", 30.0)):
        make_run(tmp_path, recipe, 0, miou)
    _, text = page_of(record_of("table6", "full"), tmp_path)
    assert "| + AA | 24.5 | +4.5 | 1 | 45.9 | +7.3 |" in text
    assert "| + SIM | 30.0 | – | 1 | 47.1 | +1.1 |" in text  # the row above is not there
    assert "In the paper: SYNTHIA → Cityscapes, 13 classes." in text
    assert "one seed: a difference of a point or two may be seed variance" in text
    assert "compare the direction" not in text  # of the full size
    assert "--source SYNTHIA" in text


def test_a_curves_page_shows_what_was_lost_after_the_highest_point(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, "aa+sim", seed, 30.0)
        folder = make_run(tmp_path, "aa", seed, 30.0)
        lines = (folder / "metrics.jsonl").read_text()
        (folder / "metrics.jsonl").write_text(
            lines + '{"step": 80, "kind": "evaluation", "miou": 0.36, "iou": {}}\n'
        )  # the later line holds
    _, text = page_of(record_of("figure2", "small", seeds=(0, 1)), tmp_path)
    assert "| AA | 36.0 | 80 | 30.0 ± 0.0 | – | 2 | 41.4 | – |" in text
    assert "| AA + SIM | 30.0 | 100 | 30.0 ± 0.0 | 0.0 ± 0.0 | 2 | – | – |" in text
    assert (tmp_path / "report" / "figure2.png").is_file()


def test_an_experiment_that_has_not_begun_has_a_page_without_a_chart(tmp_path: Path) -> None:
    for name in PAPER_EXPERIMENTS:
        html, text = page_of(record_of(name), tmp_path)
        assert "No run has been scored yet" in html
        assert "![" not in text
    assert not list(tmp_path.rglob("*.png"))


def test_the_command_of_a_page_is_one_that_can_be_typed(tmp_path: Path) -> None:
    said = command(record_of("table3", "smoke", "schedule.max_steps=5", seeds=(0, 3)))
    words = said.replace("\\\n", " ").split()[3:]
    words[words.index("GTA5")] = str(tmp_path / "gta5")
    assert "10: 0 finished, 0 begun" in invoke(*words, "--check", "--check-steps", "0", code=1)


# --- the look before it runs


def checked(streets: Folders, out: Path, record: ExperimentRecord, steps: int = 0) -> list[Finding]:
    jobs = plan_paper_experiment(record, out)
    return check_plan(jobs, streets, record, out, CPU, steps=steps, processes=1, announce=lambda name: None)


def missing(findings: list[Finding]) -> dict[str, str]:
    return {finding.what: finding.text for finding in findings if finding.kind == "missing"}


def test_nothing_is_missing_where_all_is_there(streets: Folders, tmp_path: Path) -> None:
    findings = checked(streets, tmp_path / "exp", record_of("table2"))
    assert missing(findings) == {}
    notes = {finding.what: finding.text for finding in findings if finding.kind == "note"}
    assert notes["source"] == "6 images (48x96, height x width), 6 of them read; 24,966 were published"
    assert notes["target, training"] == "4 images; 2,975 were published"
    assert re.match(r"8 of 19 classes, of the labeled pixels road .*%; not seen: wall,", notes["source, labels"])
    assert notes["start weights"].startswith("random")
    assert notes["style-transferred images"].startswith("lab, within a step")
    assert Finding("ok", "runs", "6: 0 finished, 0 begun") in findings
    assert list(tmp_path.iterdir()) == []


Spoil = Callable[[Folders, Path], Any]


def without(name: str) -> Spoil:
    return lambda copy, out: shutil.rmtree(copy.source.parent / name)


def cut(pattern: str) -> Spoil:
    """The first file of this pattern ends too early."""

    def spoil(copy: Folders, out: Path) -> None:
        file = sorted(copy.source.parent.glob(pattern))[0]
        file.write_bytes(file.read_bytes()[:300])

    return spoil


def painted(place: str, size: tuple[int, int], value: int = 0) -> Spoil:
    """Other images in place of those of this pattern, or at this place."""

    def spoil(copy: Folders, out: Path) -> None:
        root = copy.source.parent
        for file in list(root.glob(place)) or [root / place]:
            file.parent.mkdir(exist_ok=True)
            Image.new("L", size, value).save(file)

    return spoil


def another_run(copy: Folders, out: Path) -> None:
    (job, *_) = plan_paper_experiment(record_of("table2", "smoke", "schedule.max_steps=3"), out)
    job.run.claim(job.recipe, InputFiles({}))


@pytest.mark.parametrize(
    ("spoil", "setting", "what", "said"),
    [
        (without("gta5"), None, "source", "gta5/images: expected a folder of the gta5 layout"),
        (
            without("cityscapes/leftImg8bit/val"),
            None,
            "target, validation",
            "leftImg8bit/val: split must be one that exists",
        ),
        (without("cityscapes/gtFine/val"), None, "target, validation", "gtFine/val: split must be one that exists"),
        (
            lambda copy, out: next(copy.target.glob("gtFine/train/*/*.png")).unlink(),
            None,
            "target, training labels",
            "expected its label map",
        ),
        (painted("gta5/labels/00002.png", (95, 48)), None, "source", "differ in size: 00002"),
        (cut("gta5/images/*.png"), None, "source, of 6 decoded", "truncated or damaged"),
        (
            lambda copy, out: sorted(copy.target.glob("leftImg8bit/train/*/*.png"))[-1].write_bytes(bytes(20)),
            None,
            "target, training",
            "1 cannot be read; ",
        ),
        (cut("cityscapes/leftImg8bit/train/*/*.png"), None, "target, training, of 4 decoded", "1 cannot be read; "),
        (painted("gta5/labels/*.png", (96, 48), 200), None, "source", "expected pixels of at least one class"),
        (without("cityscapes"), None, "target, training", "expected a folder of the cityscapes layout"),
        (None, "style_transfer.method=nowhere", "style-transferred images", "which is not a folder"),
        (
            painted("transferred/00001.png", (96, 48)),
            "style_transfer.method={root}/transferred",
            "style-transferred images",
            "5 are missing",
        ),
        (None, "network.weights=nowhere.pth", "start weights", "found none at nowhere.pth"),
        (
            lambda copy, out: torch.save({"backbone.strange": torch.zeros(1)}, copy.source.parent / "weights.pth"),
            "network.weights={root}/weights.pth",
            "start weights",
            "that fit the backbone",
        ),
        (another_run, None, "aa+it+sim seed 0", "schedule.max_steps: 3 -> 12"),
        (lambda copy, out: record_of("figure2").claim(out), None, "experiment folder", "the folder holds figure2"),
    ],
)
def test_each_thing_that_is_missing_is_reported(
    streets: Folders,
    tmp_path: Path,
    spoil: Spoil | None,
    setting: str | None,
    what: str,
    said: str,
) -> None:
    root = shutil.copytree(streets.source.parent, tmp_path / "data")
    copy = Folders(root / "gta5", root / "cityscapes")
    if spoil is not None:
        spoil(copy, tmp_path / "exp")
    settings = [] if setting is None else [setting.format(root=root)]
    found = missing(checked(copy, tmp_path / "exp", record_of("table2", "smoke", *settings), steps=1))
    assert said in found[what]
    assert what.startswith("target, training") or set(found) == {what}  # and nothing else


def test_timed_steps_foretell_time_and_memory_and_write_nothing(
    streets: Folders, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def apart(recipe: Any, folders: Folders, device: torch.device, steps: int, threads: int) -> TimedSteps:
        calls.append(recipe.name)
        return TimedSteps(2.0, 0.1, 3 * 2**30, 3 * 2**30, 2**20)

    monkeypatch.setattr(checked_runs, "time_steps_apart", apart)
    record = record_of("table2", "smoke", *quiet, "schedule.max_steps=100", "schedule.decay_steps=100")
    findings = checked(streets, tmp_path, record, steps=1)
    said = {finding.what: finding.text for finding in findings}
    assert calls == ["aa+it+sim"]  # the costliest that needs no labels of another run
    assert said["memory"].startswith("3.0 GiB a run (aa+it+sim seed 0)")
    assert said["disk"].startswith("at most 18 MiB (checkpoints 18 MiB, pseudo-labels 0 MiB)")  # 6 runs of 3 MiB
    # 100 steps of 2 seconds, of others by their costs of 1.0 to 2.6; 17 tests of 3 images.
    assert said["time in all"].startswith("0:15:31 for 6 runs (training 0:15:00, scoring 0:00:31, labeling 0:00:01)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_too_little_room_is_missing(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(checked_runs, "time_steps_apart", lambda *args: TimedSteps(1.0, 1.0, 2**30, 2**30, 2**30))
    monkeypatch.setattr(checked_runs, "free_memory_bytes", lambda device: 2**29 if what == "memory" else 2**40)
    free = 2**30 if what == "disk" else 2**40
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    found = missing(checked(streets, tmp_path, record_of("table2"), steps=1))
    assert list(found) == [what]
    assert f"free {'1.0 GiB' if what == 'disk' else '0.5 GiB'}" in found[what]


def test_a_gpu_has_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    (job, *_) = plan_paper_experiment(record_of("table4", "full"), Path("exp"))
    timed = TimedSteps(1.0, 1.0, 30 * 2**30, 4 * 2**30, 2**20)
    monkeypatch.setattr(checked_runs, "free_memory_bytes", lambda device: 40 * 2**30)
    check_memory(findings := Findings(), Measured(job, timed), torch.device("cuda"), 2)
    machine, gpu = findings
    assert machine == Finding("ok", "memory", f"4.0 GiB a run ({job.name}), 2 at a time: 8.0 GiB; free 40.0 GiB")
    assert gpu.kind == "missing"
    assert gpu.text == f"30.0 GiB a run ({job.name}), 2 at a time: 60.0 GiB; free 40.0 GiB"


def test_a_step_that_fails_is_reported_before_the_run(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> TimedSteps:
        raise ValueError("crop does not fit")

    monkeypatch.setattr(checked_runs, "time_steps_apart", fail)
    assert missing(checked(streets, tmp_path, record_of("table3"), steps=1)) == {
        "timed steps": "weight-0.1 aa+it+sim seed 0: ValueError: crop does not fit"
    }


@pytest.mark.parametrize("group", ["style_transfer", "target_style_transfer"])
def test_the_folders_of_transferred_images_of_both_domains_are_checked(streets: Folders, group: str) -> None:
    recipe = compose_recipe("it" if group == "style_transfer" else "tt", "smoke", overrides=[f"{group}.method=nowhere"])
    findings = Findings()
    check_style_transfer(findings, [recipe], streets)
    (said,) = [finding.text for finding in findings if finding.kind == "missing"]
    assert "which is not a folder" in said


def test_steps_that_need_counts_of_classes_are_timed(streets: Folders, quiet: list[str]) -> None:
    timed = time_steps(compose_recipe("rcs+cw", "smoke", overrides=quiet), streets, CPU, 1)
    assert timed.seconds_per_step > 0


def test_real_steps_take_time_and_memory(streets: Folders, quiet: list[str], elsewhere: Path) -> None:
    (job, *_) = plan_paper_experiment(record_of("table4", "smoke", *quiet), elsewhere / "exp")
    before = torch.are_deterministic_algorithms_enabled()
    try:
        timed = time_steps(job.recipe, streets, CPU, 2)
    finally:
        torch.use_deterministic_algorithms(before)
    assert 0 < timed.seconds_per_step < 60
    assert 0 < timed.seconds_per_image < 60
    assert timed.memory_bytes == timed.process_bytes > 2**27
    result = carry_out(job, streets, CPU)
    assert result.peak_memory_bytes > 2**27
    (shown, *_) = facts([read_run(job.run.path, recipe=job.recipe.name, seed=0)])
    assert dict(shown["facts"])["labeled images"] == "6"
    assert job.run.checkpoint.stat().st_size == pytest.approx(timed.checkpoint_bytes, rel=0.5)
    shutil.rmtree(elsewhere / "exp")
    assert list(elsewhere.iterdir()) == []


# --- the command


@pytest.mark.usefixtures("in_process")
def test_a_sweep_runs_to_its_end_and_then_trains_nothing_again(
    streets: Folders, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table4 = PAPER_EXPERIMENTS["table4"]
    assert table4.sweep is not None
    two = replace(table4.sweep, published={50: 46.2, 200: 46.1})
    monkeypatch.setitem(PAPER_EXPERIMENTS, "table4", replace(table4, sweep=two))
    out = tmp_path / "exp"
    words = ["experiment", "table4", *data(streets), "--out", out, "--preset", "smoke", "--seeds", "0"]
    words += ["--device", "cpu", *settings([*quiet, "schedule.max_steps=2"])]
    assert "2: 0 finished, 0 begun" in invoke(*words, "--check", "--check-steps", "1")  # in a process of its own
    assert not out.exists()
    table = invoke(*words)
    assert "| 4 | 50 |" in table
    assert "| 16 | 200 |" in table
    runs = [out / folder / "aa+it+sim" / "seed0" for folder in ("capacity-4", "capacity-16")]
    written = [(run / "checkpoints" / "last.pt").stat().st_mtime_ns for run in runs]
    assert "ended earlier" in invoke(*words)
    assert [(run / "checkpoints" / "last.pt").stat().st_mtime_ns for run in runs] == written
    assert "2: 2 finished, 0 begun" in invoke(*words, "--check")
    assert "| 4 | 50 |" in invoke("report", out)


def test_lists_choose_the_images_of_an_experiment(streets: Folders, tmp_path: Path) -> None:
    source, target = tmp_path / "source.txt", tmp_path / "target.txt"
    for file, folder, pattern in (
        (source, streets.source, "images/*.png"),
        (target, streets.target, "leftImg8bit/train/*/*.png"),
    ):
        file.write_text("\n".join(str(path.relative_to(folder)) for path in sorted(folder.glob(pattern))[:2]))
    words = ["experiment", "table3", *data(streets), "--preset", "smoke", "--out", tmp_path / "exp"]
    lists = ["--source-list", source, "--target-list", target]
    assert invoke(*words, *lists, "--check", "--check-steps", "0").count(" 2 images") == 2


def test_a_rejected_command_leaves_the_record_as_it_was(streets: Folders, quiet: list[str], tmp_path: Path) -> None:
    record = record_of("table3", "smoke", *quiet)
    (job, *_) = plan_paper_experiment(record, tmp_path)
    job.run.claim(job.recipe, InputFiles({}))  # of other images
    job.run.checkpoint.parent.mkdir()
    job.run.checkpoint.touch()
    record.claim(tmp_path)
    words = ["experiment", "table3", *data(streets), "--preset", "smoke", "--out", tmp_path, *settings(quiet)]
    with pytest.raises(RunFolderError, match=r"data\.labeled: null"):
        invoke(*words, "--seeds", "0,1", "--device", "cpu")
    assert read_record(tmp_path) == record


@pytest.mark.parametrize("place", ["file/exp", "x" * 300])
def test_a_folder_that_cannot_be_written_is_missing(streets: Folders, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    words = ["experiment", "table3", *data(streets), "--preset", "smoke", "--out", tmp_path / place]
    assert "missing: experiment folder" in invoke(*words, "--check", "--check-steps", "0", code=1)


def test_lists_stand_in_the_command_of_the_page(tmp_path: Path) -> None:
    record = replace(record_of("table4", "small"), source_list="two.txt")
    record.claim(tmp_path)
    assert read_record(tmp_path) == record
    with pytest.raises(RunFolderError, match=r"the folder holds table4 in preset small with --source-list two\.txt"):
        record_of("table4", "small").claim(tmp_path)
    assert "--target CITYSCAPES --source-list two.txt --out OUT" in command(record).replace(" \\\n    ", " ")


def test_the_generated_city_has_the_layout_of_the_experiments_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUDGETS, "smoke", Budget("smoke", 2, 1, 1, (64, 48)))
    words = ["experiment", "table6", "--preset", "smoke", "--generate", "--out", tmp_path, "--check"]
    shown = in_one_line(invoke(*words, "--check-steps", "0"))
    assert is_city(tmp_path / "city" / "synthia")
    assert len(list((tmp_path / "city" / "synthia" / "RGB").glob("*.png"))) == 2
    assert "9,400 were published" in shown
    assert "of 16 classes" in shown
