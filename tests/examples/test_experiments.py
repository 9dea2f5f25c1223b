"""The paper's experiments by one command: their plans, their pages, and the look at all of it before it runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from examples.gta5_to_cityscapes import preflight as checked_runs
from examples.gta5_to_cityscapes.atomic_io import DamagedFileError
from examples.gta5_to_cityscapes.cli.app import app
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments.city import BUDGETS, Budget, is_city
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan_paper_experiment
from examples.gta5_to_cityscapes.input_files import InputFiles
from examples.gta5_to_cityscapes.preflight import Finding, Measured, check_memory, check_plan, duration
from examples.gta5_to_cityscapes.recipes import ABLATION, PAPER_EXPERIMENTS, RecipeError
from examples.gta5_to_cityscapes.report import write_paper_page
from examples.gta5_to_cityscapes.report.paper_page import command
from examples.gta5_to_cityscapes.run_dir import Event, ExperimentRecord, RunFolderError, read_record
from examples.gta5_to_cityscapes.training.timed_steps import TimedSteps, time_steps

from .test_report import make_run

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")

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
    assert "w = 80: seed 1 at step 50; w = 320: seeds 0, 1 not begun" in text
    assert "multiples of matching.capacity in this preset" in text
    assert "compare the direction" in text
    assert text.startswith("# Table 4: How many rows of a class should its bank hold?")
    assert "In the paper: GTA5 → Cityscapes. Here: the generated city in the same layouts." in text
    assert "--generate --out OUT" in text
    for said in ("21.0 ± 1.4", "w = 80: seed 1 at step 50", "style_transfer.method=transferred"):
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
    html, text = page_of(record_of("figure2", "small", seeds=(0, 1)), tmp_path)
    assert "| AA | 36.0 | 80 | 30.0 ± 0.0 | – | 2 | 41.4 | – |" in text
    assert "| AA + SIM | 30.0 | 100 | 30.0 ± 0.0 | 0.0 ± 0.0 | 2 | – | – |" in text
    assert "AA 30, AA + SIM 30." in html
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
    shown = CliRunner().invoke(app, [*words, "--check", "--check-steps", "0"], catch_exceptions=False)
    assert shown.exit_code == 1
    assert "10: 0 finished, 0 begun" in shown.output


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
    assert notes["source"] == "6 images, 24,966 were published"
    assert notes["target, validation"] == "3 images, 500 were published"
    assert notes["source, labels"].startswith("8 of 19 classes in 6 images; not seen: wall,")
    assert notes["start weights"].startswith("random")
    assert notes["style-transferred images"].startswith("lab, within a step")
    assert Finding("ok", "runs", "6: 0 finished, 0 begun") in findings
    assert list(tmp_path.iterdir()) == []


def without(name: str) -> Callable[[Folders, Path], Any]:
    def spoil(copy: Folders, out: Path) -> None:
        shutil.rmtree(copy.source.parent / name)

    return spoil


def misfit(copy: Folders, out: Path) -> None:
    Image.new("L", (95, 48)).save(copy.source / "labels" / "00002.png")


def damaged(copy: Folders, out: Path) -> None:
    file = copy.source / "images" / "00001.png"
    file.write_bytes(file.read_bytes()[:300])


def damaged_target(copy: Folders, out: Path) -> None:
    file = sorted(copy.target.glob("leftImg8bit/train/*/*.png"))[-1]
    file.write_bytes(bytes(20))


def damaged_further_on(copy: Folders, out: Path) -> None:
    file = sorted(copy.target.glob("leftImg8bit/train/*/*.png"))[0]
    file.write_bytes(file.read_bytes()[:300])


def other_ids(copy: Folders, out: Path) -> None:
    for file in copy.source.glob("labels/*.png"):
        Image.new("L", (96, 48), 200).save(file)


def unlabeled(copy: Folders, out: Path) -> None:
    next(copy.target.glob("gtFine/train/*/*.png")).unlink()


def transferred_in_part(copy: Folders, out: Path) -> None:
    transferred = copy.source.parent / "transferred"
    transferred.mkdir()
    Image.new("RGB", (96, 48)).save(transferred / "00001.png")


def another_run(copy: Folders, out: Path) -> None:
    (job, *_) = plan_paper_experiment(record_of("table2", "smoke", "schedule.max_steps=3"), out)
    job.run.claim(job.recipe, InputFiles({}))


def another_experiment(copy: Folders, out: Path) -> None:
    record_of("figure2").claim(out)


def no_weights(copy: Folders, out: Path) -> None:
    torch.save({"backbone.strange": torch.zeros(1)}, copy.source.parent / "weights.pth")


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
        (unlabeled, None, "target, training labels", "expected its label map"),
        (misfit, None, "source", "differ in size: 00002"),
        (damaged, None, "source", "truncated or damaged"),
        (damaged_target, None, "target, training", "1 file cannot be read, the first: "),
        (damaged_further_on, None, "target, training", "1 file cannot be read, the first: "),
        (other_ids, None, "source, labels", "expected pixels of at least one class"),
        (without("cityscapes"), None, "target, training", "expected a folder of the cityscapes layout"),
        (None, "style_transfer.method=nowhere", "style-transferred images", "which is not a folder"),
        (transferred_in_part, "style_transfer.method={root}/transferred", "style-transferred images", "5 are missing"),
        (None, "network.weights=nowhere.pth", "start weights", "found none at nowhere.pth"),
        (no_weights, "network.weights={root}/weights.pth", "start weights", "that fit the backbone"),
        (another_run, None, "aa+it+sim seed 0", "schedule.max_steps: 3 -> 12"),
        (another_experiment, None, "experiment folder", "the folder holds figure2"),
    ],
)
def test_each_thing_that_is_missing_is_reported(
    streets: Folders,
    tmp_path: Path,
    spoil: Callable[[Folders, Path], None] | None,
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
    assert what == "target, training" or set(found) == {what}  # and nothing else


def test_timed_steps_foretell_time_and_memory_and_write_nothing(
    streets: Folders, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def apart(recipe: Any, folders: Folders, device: torch.device, steps: int, threads: int) -> TimedSteps:
        calls.append(recipe.name)
        return TimedSteps(0.5 if recipe.name == "source" else 2.0, 0.1, 3 * 2**30, 3 * 2**30, 2**20)

    monkeypatch.setattr(checked_runs, "time_steps_apart", apart)
    record = record_of("table2", "smoke", *quiet, "schedule.max_steps=100", "schedule.decay_steps=100")
    findings = checked(streets, tmp_path, record, steps=1)
    said = {finding.what: finding.text for finding in findings}
    assert calls == ["aa+it+sim", "source"]  # the costliest and the cheapest that needs no labels of another run
    assert said["memory"].startswith("3.0 GiB a run (aa+it+sim seed 0)")
    assert said["disk"].startswith("at most 18 MiB (checkpoints 18 MiB, pseudo-labels 0 MiB)")  # 6 runs of 3 MiB
    # By cost, of 1.0 to 2.6: steps of 0.5 (two runs), 1.6 and 1.7 between, 2 seconds (two). 17 tests of 3 images.
    assert said["time in all"].startswith("14 min for 6 runs (training 14 min, scoring 31 s, labeling 1 s)")
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
    machine, gpu = check_memory(Measured(timed, job, timed, job), torch.device("cuda"), 2)
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
        "timed steps": "weight-0.001 aa+it+sim seed 0: ValueError: crop does not fit"
    }


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
    assert job.run.checkpoint.stat().st_size == pytest.approx(timed.checkpoint_bytes, rel=0.5)
    shutil.rmtree(elsewhere / "exp")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (80, "80 s"), (119, "2 min"), (600, "10 min"), (9000, "2 h 30 min"), (172_800, "2.0 days")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# --- the command


def asked(name: str, streets: Folders, *more: str) -> list[str]:
    """What a person types for an experiment on the tiny streets."""
    return ["experiment", name, "--source", str(streets.source), "--target", str(streets.target), *more]


def test_a_sweep_runs_to_its_end_and_then_trains_nothing_again(
    streets: Folders, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table4 = PAPER_EXPERIMENTS["table4"]
    assert table4.sweep is not None
    two = replace(table4.sweep, published={50: 46.2, 200: 46.1})
    monkeypatch.setitem(PAPER_EXPERIMENTS, "table4", replace(table4, sweep=two))
    out = tmp_path / "exp"
    settings = [word for item in (*quiet, "schedule.max_steps=2") for word in ("--set", item)]
    words = asked("table4", streets, "--out", str(out))
    words += ["--preset", "smoke", "--seeds", "0", "--device", "cpu", *settings]

    def run(*more: str) -> str:
        shown = CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
        assert shown.exit_code == 0, shown.output
        return shown.output

    assert "2: 0 finished, 0 begun" in run("--check", "--check-steps", "1")  # in a process of its own
    assert not out.exists()
    table = run()
    assert "| 4 | 50 |" in table
    assert "| 16 | 200 |" in table
    runs = [out / folder / "aa+it+sim" / "seed0" for folder in ("capacity-4", "capacity-16")]
    written = [(run / "checkpoints" / "last.pt").stat().st_mtime_ns for run in runs]
    assert "ended earlier" in run()
    assert [(run / "checkpoints" / "last.pt").stat().st_mtime_ns for run in runs] == written
    assert "2: 2 finished, 0 begun" in run("--check")
    assert "| 4 | 50 |" in CliRunner().invoke(app, ["report", str(out)], catch_exceptions=False).output


def test_lists_choose_the_images_of_an_experiment(streets: Folders, tmp_path: Path) -> None:
    words = asked("table3", streets)
    words += ["--preset", "smoke", "--out", str(tmp_path / "exp"), "--check", "--check-steps", "0"]
    source, target = tmp_path / "source.txt", tmp_path / "target.txt"
    for file, folder, pattern in (
        (source, streets.source, "images/*.png"),
        (target, streets.target, "leftImg8bit/train/*/*.png"),
    ):
        file.write_text("\n".join(str(path.relative_to(folder)) for path in sorted(folder.glob(pattern))[:2]))
    lists = ["--source-list", str(source), "--target-list", str(target)]
    shown = CliRunner().invoke(app, [*words, *lists], catch_exceptions=False)
    assert shown.output.count(" 2 images, ") == 2, shown.output


def test_a_rejected_command_leaves_the_record_as_it_was(
    streets: Folders, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "exp"
    words = asked("table3", streets, "--preset", "smoke")
    words += ["--out", str(out), *(word for item in quiet for word in ("--set", item)), "--device", "cpu"]
    record = record_of("table3", "smoke", *quiet)
    (job, *_) = plan_paper_experiment(record, out)
    job.run.claim(job.recipe, InputFiles({}))  # of other images
    record.claim(out)
    with pytest.raises(RunFolderError, match=r"data\.labeled: null"):
        CliRunner().invoke(app, [*words, "--seeds", "0,1"], catch_exceptions=False)
    assert read_record(out) == record


@pytest.mark.parametrize("place", ["file/exp", "x" * 300])
def test_a_folder_that_cannot_be_written_is_missing(streets: Folders, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    words = asked("table3", streets, "--preset", "smoke")
    shown = CliRunner().invoke(
        app, [*words, "--out", str(tmp_path / place), "--check", "--check-steps", "0"], catch_exceptions=False
    )
    assert shown.exit_code == 1
    assert "missing: experiment folder" in shown.output


def test_lists_stand_in_the_command_of_the_page(tmp_path: Path) -> None:
    record = replace(record_of("table4", "small"), source_list="two.txt")
    record.claim(tmp_path)
    assert read_record(tmp_path) == record
    with pytest.raises(RunFolderError, match=r"the folder holds table4 in preset small with --source-list two\.txt"):
        record_of("table4", "small").claim(tmp_path)
    assert "--target CITYSCAPES --source-list two.txt --out OUT" in command(record).replace(" \\\n    ", " ")


@pytest.mark.parametrize("name", PAPER_EXPERIMENTS)
def test_an_unknown_size_is_rejected_with_those_there_are(name: str) -> None:
    with pytest.raises(RecipeError, match=r"preset must be one of full, full-vgg16, small, tiny, smoke, got 'large'"):
        plan_paper_experiment(record_of(name, "large"), Path("out"))


def test_an_unknown_experiment_is_rejected_with_those_there_are(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["experiment", "table7", "--generate", "--out", str(tmp_path / "exp")])
    assert shown.exit_code == 2
    assert "table2, table3, table4, table6, figure2" in " ".join(shown.output.replace("│", " ").split())
    assert not (tmp_path / "exp").exists()


def test_transferred_images_without_a_use_are_rejected(streets: Folders, tmp_path: Path) -> None:
    words = asked("figure2", streets)
    shown = CliRunner().invoke(app, [*words, "--style-transfer", "lab", "--out", str(tmp_path / "exp")])
    assert shown.exit_code == 2
    assert "none of these recipes has that part" in " ".join(shown.output.replace("│", " ").split())
    assert not (tmp_path / "exp").exists()


def test_the_generated_city_has_the_layout_of_the_experiments_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUDGETS, "smoke", Budget("smoke", 2, 1, 1, (64, 48)))
    words = ["experiment", "table6", "--preset", "smoke", "--generate", "--out", str(tmp_path), "--check"]
    shown = CliRunner().invoke(app, [*words, "--check-steps", "0"], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert is_city(tmp_path / "city" / "synthia")
    assert len(list((tmp_path / "city" / "synthia" / "RGB").glob("*.png"))) == 2
    assert "2 images, 9,400 were published" in shown.output
    assert "of 16 classes in 2 images" in " ".join(shown.output.split())
