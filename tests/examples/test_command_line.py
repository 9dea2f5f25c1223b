"""The commands as a person types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from examples.generated_city import generate_city
from examples.gta5_to_cityscapes.checkpoint import CheckpointError
from examples.gta5_to_cityscapes.cli import commands
from examples.gta5_to_cityscapes.cli.progress_display import ProgressDisplay
from examples.gta5_to_cityscapes.data import DatasetError
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments.city import BUDGETS, Budget, City
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan
from examples.gta5_to_cityscapes.experiments.runner import run_experiment
from examples.gta5_to_cityscapes.run_dir import Event, RunFolderError, unwatched
from examples.gta5_to_cityscapes.signals import Stopped

from .commands import data, in_its_own_group, invoke, settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(streets: Folders, quiet: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An experiment with one run, and what its command printed."""
    out = tmp_path_factory.mktemp("trained")
    few = settings([*quiet, "schedule.max_steps=2"])
    return out, invoke("train", "aa", *data(streets), "--preset", "smoke", "--out", out, *few, "--threads", "1")


def test_train_prints_scores_and_cost(trained: tuple[Path, str]) -> None:
    assert "mean" in trained[1]
    assert re.search(r"a step: \S+ m?s, \S+ images/s, \S+ % waiting for images; peak memory \S+ GiB", trained[1])


def test_evaluate_scores_the_classes_that_are_named(trained: tuple[Path, str], streets: Folders) -> None:
    folder = trained[0] / "aa" / "seed0"
    shown = invoke("evaluate", folder, "--target", streets.target, "--classes", "road,sky")
    assert "building" not in shown
    assert f"{100 * json.loads((folder / 'result.json').read_text())['iou']['road']:.1f}" in shown


def test_labels_are_written_for_images_of_another_layout_too(
    trained: tuple[Path, str], streets: Folders, tmp_path: Path
) -> None:
    folder = trained[0] / "aa" / "seed0"
    words = ["pseudo-label", folder, "--cap", "0.5"]
    invoke(*words, "--target", streets.target, "--out", tmp_path / "labels")
    assert len(list((tmp_path / "labels" / "pseudo_labels").glob("*.png"))) == 4
    assert max(json.loads((tmp_path / "labels" / "thresholds.json").read_text())["thresholds"].values()) <= 0.5
    words += ["--target", streets.source]
    invoke(*words, "--target-layout", "gta5", "--out", tmp_path / "others")
    labeled = {path.stem for path in (tmp_path / "others" / "pseudo_labels").glob("*.png")}
    assert labeled == {f"{i:05}" for i in range(1, 7)}
    with pytest.raises(DatasetError, match="of the cityscapes layout"):  # as trained
        invoke(*words, "--out", tmp_path / "as_trained")


def test_a_given_checkpoint_replaces_the_first_stage(
    trained: tuple[Path, str], streets: Folders, quiet: list[str], tmp_path: Path
) -> None:
    few = settings([*quiet, "schedule.max_steps=2"])
    words = ["train", "ssl", *data(streets), "--preset", "smoke", "--out", tmp_path, *few]
    invoke(*words, "--from", trained[0] / "aa" / "seed0")
    assert [path.name for path in tmp_path.iterdir()] == ["ssl"]
    shutil.copytree(tmp_path / "ssl", tmp_path / "sim")
    with pytest.raises(CheckpointError, match=r"expected the folder of one run, it holds 2: .*sim/seed0, .*ssl"):
        invoke("evaluate", tmp_path, "--target", streets.target)


# --- check


def torn_labels(source: Path, target: Path) -> None:
    for i in range(7, 19):
        shutil.copy(source / "images" / "00001.png", source / "images" / f"{i:05}.png")
        (source / "labels" / f"{i:05}.png").write_bytes(b"not an image")
    (source / "images" / "00007.png").write_bytes(b"")
    torn = source / "labels" / "00003.png"
    torn.write_bytes(torn.read_bytes()[:-40])
    (target / "leftImg8bit" / "train" / "tiny" / "tiny_000002_000019_leftImg8bit.png").write_bytes(b"")


def color_renderings(source: Path, target: Path) -> None:
    """Their headers are whole, but not those of label ids."""
    for path in (source / "labels").iterdir():
        Image.new("RGB", (96, 48)).save(path)


@pytest.mark.parametrize(
    ("spoil", "faults", "said"),
    [
        (
            lambda source, target: None,
            [],
            ["source: 6 images (48x96, height x width), 6 of them read", "not seen: wall, "],
        ),
        (
            lambda source, target: Image.new("L", (95, 48)).save(source / "labels" / "00002.png"),
            ["image and label map differ in size: 00002; "],
            ["source: 6 images (48x96, height x width), 5 of them read"],
        ),
        (
            torn_labels,
            ["1 cannot be read; ", "13 cannot be read; "],
            [
                "target, training: 1 cannot be read; ",
                "tiny_000002_000019_leftImg8bit.png: expected",
                "source: 13 cannot be read; ",
                "labels/00015.png: expected a PNG, JPEG, TIFF or WebP image",  # the tenth of them
                " and 3 more\n",
                "source, of 6 decoded: 1 cannot be read; ",
                "labels/00003.png: expected a complete image",
                "source: 18 images (48x96, height x width), 5 of them read",
            ],
        ),
        (
            color_renderings,
            ["6 cannot be read; "],
            [
                "00001.png: expected label ids as an 8-bit gray or palette PNG",
                "source: 6 images; 24,966 were published",
            ],
        ),
    ],
)
def test_check_names_all_faults_and_counts_the_rest(
    spoil: Callable[[Path, Path], None], faults: list[str], said: list[str], streets: Folders, tmp_path: Path,
    failure: Callable[..., tuple[str, str]],
) -> None:  # fmt: skip
    source = shutil.copytree(streets.source, tmp_path / "gta5")
    target = shutil.copytree(streets.target, tmp_path / "cityscapes")
    spoil(source, target)
    words = ["check", "--source", source, "--target", target]
    shown, errors = failure(*words) if faults else (invoke(*words), "")
    for text in faults:
        assert text in errors
    for text in (
        *said,
        "target, training: 4 images",
        "target, validation: 3 images (48x96, height x width), 3 of them read",
    ):
        assert text in shown
    assert "0 of them read" not in shown


# --- several runs


def test_an_experiment_skips_what_has_ended_and_resumes_the_rest(
    streets: Folders, quiet: list[str], tmp_path: Path
) -> None:
    overrides = [*quiet, "schedule.max_steps=4", "schedule.save_every=2"]
    jobs = plan(["sim+ssl"], [0], "smoke", tmp_path, overrides=overrides)
    assert [job.recipe.name for job in jobs] == ["sim", "sim+ssl"]

    class PowerCut(Exception):
        pass

    def cut(event: Event) -> None:
        if event.task == "sim+ssl seed 0" and event.done == 4:
            raise PowerCut

    carry_out(jobs[0], streets, CPU)
    with pytest.raises(PowerCut):
        carry_out(jobs[1], streets, CPU, cut)
    before = jobs[0].run.checkpoint.stat().st_mtime_ns
    resumed: list[Event] = []
    run_experiment(jobs, streets, CPU, resumed.append)  # in a process of its own
    assert all(job.run.result() is not None for job in jobs)
    assert jobs[0].run.checkpoint.stat().st_mtime_ns == before
    assert resumed[0] == Event("sim seed 0", 4, 4, "ended earlier", "finished")
    assert "4/4  going on" not in (log := (jobs[1].run.path / "log.txt").read_text())
    assert "2/4  going on" in log
    again: list[Event] = []
    run_experiment(jobs, streets, CPU, again.append)
    assert {event.note for event in again} == {"ended earlier"}
    other = plan(["sim"], [0], "smoke", tmp_path, overrides=[*overrides, "optimizer.lr=0.25"])
    with pytest.raises(RunFolderError, match=r"optimizer\.lr"):
        run_experiment(other, streets, CPU, unwatched)


@pytest.mark.usefixtures("in_process")
def test_ablation_writes_a_report(streets: Folders, quiet: list[str], tmp_path: Path) -> None:
    shown = invoke(
        "ablation", *data(streets), "--recipes", "source,target-only", "--seeds", "0", "--preset", "smoke",
        "--out", tmp_path, "--classes", "road,sky,building", *settings([*quiet, "schedule.max_steps=2"]),
    )  # fmt: skip
    assert "target only" in shown
    assert (tmp_path / "report" / "index.html").is_file()
    assert set(json.loads((tmp_path / "source/seed0/result.json").read_text())["iou"]) == {"road", "sky", "building"}


@pytest.mark.usefixtures("in_process")
def test_demo_draws_runs_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "DEMO", ("source",))
    monkeypatch.setitem(BUDGETS, "smoke", Budget("smoke", 2, 1, 1, (96, 48)))
    invoke("demo", "--budget", "smoke", "--out", tmp_path, "--jobs", "1")
    assert (tmp_path / "source" / "seed0" / "result.json").is_file()
    assert (tmp_path / "report" / "index.html").is_file()
    assert invoke("report", tmp_path).count("index.html") == 1


def test_an_ablation_draws_the_city_of_the_seed_it_is_given(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[City] = []
    monkeypatch.setattr(City, "generate", lambda city, watch: drawn.append(city))
    monkeypatch.setattr(commands, "run_experiment", lambda *args, **kwargs: None)
    monkeypatch.setattr(commands, "write_reports_of", lambda *args: [])
    invoke("ablation", "--target", streets.target, "--generate", "--city-seed", "7", "--out", tmp_path)
    assert drawn == [City(tmp_path, BUDGETS["small"], 7)]


def test_another_city_in_the_folder_is_reported_in_a_line(
    tmp_path: Path, failure: Callable[..., tuple[str, str]]
) -> None:
    generate_city(tmp_path / "city", source_images=0, target_train=0, target_val=0, seed=3)
    assert "holds a city made with" in failure("demo", "--out", tmp_path)[1]


# --- stopping


def test_stopping_is_not_an_error(
    streets: Folders, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., tuple[str, str]]
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise Stopped("Give the same command again.")

    monkeypatch.setattr(commands, "carry_out", stop)
    words = ["train", "source", *data(streets), "--out", "runs", "--preset", "smoke"]
    assert "same command again" in failure(*words, code=130)[1]


def after(happened: Callable[[], bool], command: subprocess.Popen[str], *kinds: signal.Signals) -> str:
    """The errors of a command, all of whose processes get signals, as from a terminal; it must end as one stopped."""
    try:
        deadline = time.monotonic() + 60
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.05)
        for kind in kinds:
            os.killpg(command.pid, kind)
        _, errors = command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == 130, errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.skipif(os.name == "nt", reason="a process group is sent a signal")
def test_signals_to_all_processes_of_a_run_save_and_are_answered_once(
    streets: Folders, quiet: list[str], tmp_path: Path
) -> None:
    """Those that load its images get them too, and go on until the step has ended."""
    few = ["runtime.num_workers=1", "runtime.cache=false", "schedule.log_every=1", "schedule.max_steps=5000"]
    words = ["train", "aa", *data(streets), "--preset", "smoke", "--out", str(tmp_path), "--threads", "1"]
    training = in_its_own_group(*words, *settings([*quiet, *few, "schedule.decay_steps=5000"]))
    metrics = tmp_path / "aa/seed0/metrics.jsonl"
    said = after(lambda: metrics.is_file() and metrics.stat().st_size > 0, training, signal.SIGTERM, signal.SIGINT)
    assert said.count("stopping: this step is ended and saved first") == 1
    assert "saved in" in said
    assert (tmp_path / "aa/seed0/checkpoints/last.pt").is_file()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(os.name == "nt", reason="a process group is sent a signal")
def test_a_signal_while_the_city_is_drawn_says_that_it_goes_on(tmp_path: Path, kind: signal.Signals) -> None:
    drawing = in_its_own_group("demo", "--out", str(tmp_path))
    said = after(lambda: any(tmp_path.rglob("*.png")), drawing, kind)
    assert "Interrupted. What has been written is kept; the same command goes on from there." in said


# --- progress


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(file=(tmp_path / "shown.txt").open("w"), width=200)


def test_display_weighs_runs_by_their_work_and_shows_the_time_left(console: Console, tmp_path: Path) -> None:
    with ProgressDisplay({"short": 1.0, "long": 3.0}, overall="all", console=console) as display:
        display(Event("short", 5, 10))
        assert display.share == pytest.approx(0.125)
        time.sleep(0.01)
        display(Event("long", 0, 10))
        display(Event("short", 10, 10, "mIoU 1.0", "finished"))
        display(Event("long", 5, 10))
        assert display.share == pytest.approx(0.625)
    console.file.close()
    lines = (tmp_path / "shown.txt").read_text().splitlines()
    assert lines[0].startswith(" 12%, -:--:-- left")
    assert "0:0" in lines[-1]


def test_display_of_runs_that_go_on_measures_speed_from_there(console: Console, tmp_path: Path) -> None:
    with ProgressDisplay({"a": 1.0, "b": 2.2, "c": 0.3}, overall="all", console=console) as display:
        display(Event("a", 90, 100, "going on"))
        display(Event("b", 80, 100, "going on"))
        for done in (81, 82):
            time.sleep(0.1)
            display(Event("b", done, 100))
        seconds = display._bars.tasks[0].time_remaining
    console.file.close()
    assert ["-:--:-- left" in line for line in (tmp_path / "shown.txt").read_text().splitlines()] == [True, True]
    # A hundredth of b, 0.6 % of all, in 0.1 s, and 23 % left.
    assert seconds is not None
    assert seconds > 3
