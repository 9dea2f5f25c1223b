"""The commands as a person types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from examples.generated_city import generate_city
from examples.gta5_to_cityscapes.checkpoint import CheckpointError
from examples.gta5_to_cityscapes.cli import run_commands
from examples.gta5_to_cityscapes.cli.app import app, main
from examples.gta5_to_cityscapes.cli.progress_display import ProgressDisplay
from examples.gta5_to_cityscapes.data import DatasetError
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.experiments import runner as processes
from examples.gta5_to_cityscapes.experiments.city import city_folders
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan
from examples.gta5_to_cityscapes.experiments.runner import RunsFailed, run_experiment
from examples.gta5_to_cityscapes.run_dir import Event, RunFolderError, unwatched
from examples.gta5_to_cityscapes.signals import Stopped

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(streets: Folders, quiet: list[str]):  # type: ignore[no-untyped-def]
    """Call a command with the tiny streets; its output comes back."""

    def call(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    return call


def in_its_own_group(*words: str) -> subprocess.Popen[str]:
    """The command in a process group that a test can send signals to, as a terminal would."""
    return subprocess.Popen(
        [sys.executable, "-m", "examples.gta5_to_cityscapes", *words],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests' own parent may ignore it
    )


def data(streets: Folders) -> list[str]:
    return ["--source", str(streets.source), "--target", str(streets.target)]


def settings(quiet: list[str], steps: int = 2) -> list[str]:
    return [word for item in (*quiet, f"schedule.max_steps={steps}") for word in ("--set", item)]


def test_the_folder_of_several_runs_is_not_that_of_one(  # type: ignore[no-untyped-def]
    run, streets: Folders, quiet: list[str], tmp_path: Path
) -> None:
    for name in ("source", "aa"):
        run("train", name, *data(streets), "--preset", "smoke", "--out", str(tmp_path), *settings(quiet))
    with pytest.raises(CheckpointError, match=r"expected the folder of one run, it holds 2: .*aa/seed0, .*source"):
        run("evaluate", str(tmp_path), "--target", str(streets.target))


def test_train_evaluate_and_label(run, streets: Folders, quiet: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = str(tmp_path / "runs")
    common = [*data(streets), "--preset", "smoke", "--out", out, *settings(quiet)]
    shown = run("train", "aa", *common, "--threads", "1")
    assert "mean" in shown
    assert re.search(r"a step: \S+ m?s, \S+ images/s, \S+ % waiting for images; peak memory \S+ GiB", shown)
    folder = tmp_path / "runs" / "aa" / "seed0"
    result = json.loads((folder / "result.json").read_text())
    shown = run("evaluate", str(folder), "--target", str(streets.target), "--classes", "road,sky")
    assert "road" in shown
    assert "building" not in shown
    assert f"{100 * result['iou']['road']:.1f}" in shown
    run("pseudo-label", str(folder), "--target", str(streets.target), "--out", str(tmp_path / "labels"), "--cap", "0.5")
    assert len(list((tmp_path / "labels" / "pseudo_labels").glob("*.png"))) == 4
    assert max(json.loads((tmp_path / "labels" / "thresholds.json").read_text())["thresholds"].values()) <= 0.5
    run("train", "ssl", *common, "--from", str(folder))
    assert (tmp_path / "runs" / "ssl" / "seed0" / "result.json").is_file()
    assert not (tmp_path / "runs" / "source").exists()


def test_check_counts_images_and_classes(run, streets: Folders) -> None:  # type: ignore[no-untyped-def]
    shown = run("check", *data(streets))
    assert "source: 6 images (96x48)" in shown
    assert "target, training: 4 images" in shown
    assert "train          absent" in shown


def test_check_names_pairs_that_do_not_fit(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(streets.source, tmp_path / "gta5")
    Image.new("L", (95, 48)).save(source / "labels" / "00002.png")
    monkeypatch.setattr("sys.argv", ["x", "check", "--source", str(source), "--target", str(streets.target)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    captured = capsys.readouterr()
    assert "source: image and label map differ in size: 00002\n" in captured.out
    assert "source: 6 images (96x48), 5 of them read" in captured.out
    assert "image's size, 1 is not" in captured.err


def test_check_names_every_file_that_cannot_be_read_and_goes_on(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(streets.source, tmp_path / "gta5")
    for i in range(7, 19):
        shutil.copy(source / "images" / "00001.png", source / "images" / f"{i:05}.png")
        (source / "labels" / f"{i:05}.png").write_bytes(b"not an image")
    (source / "images" / "00007.png").write_bytes(b"")
    torn = source / "labels" / "00003.png"
    torn.write_bytes(torn.read_bytes()[:-40])
    target = shutil.copytree(streets.target, tmp_path / "cityscapes")
    unlabeled = target / "leftImg8bit" / "train" / "tiny" / "tiny_000002_000019_leftImg8bit.png"
    unlabeled.write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["x", "check", "--source", str(source), "--target", str(target)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    captured = capsys.readouterr()
    shown = captured.out.splitlines()
    assert f"  {unlabeled}: expected" in shown[shown.index("target, training: 1 cannot be read:") + 1]
    first = shown.index("source: 13 cannot be read:")
    named = [source / "images" / "00007.png", *(source / "labels" / f"{i:05}.png" for i in range(7, 16))]
    for line, path in zip(shown[first + 1 : first + 11], named, strict=True):
        assert line.startswith(f"  {path}: expected a PNG, JPEG, TIFF or WebP image")
    assert shown[first + 10].endswith(" and 3 more")
    decoded = shown.index("source, of 6 decoded: 1 cannot be read:")
    assert shown[decoded + 1].startswith(f"  {torn}: expected a complete image")
    assert "source: 18 images (96x48), 5 of them read:" in shown
    assert "target, validation: 3 images (96x48), 3 of them read:" in shown
    assert "image's size, 15 are not; training stops at the first" in captured.err


def test_check_of_a_folder_without_one_readable_label_still_looks_at_the_other(
    streets: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The headers of color renderings in place of label ids are whole, but not those of label ids."""
    source = shutil.copytree(streets.source, tmp_path / "gta5")
    for path in (source / "labels").iterdir():
        Image.new("RGB", (96, 48)).save(path)
    monkeypatch.setattr("sys.argv", ["x", "check", "--source", str(source), "--target", str(streets.target)])
    with pytest.raises(SystemExit):
        main()
    captured = capsys.readouterr()
    assert "source: 6 cannot be read:" in captured.out
    assert "00001.png: expected label ids as an 8-bit gray or palette PNG" in captured.out
    assert "0 of them read" not in captured.out
    assert "target, validation: 3 images (96x48), 3 of them read:" in captured.out
    assert "image's size, 6 are not" in captured.err


def test_images_in_another_layout_can_be_labeled(run, streets: Folders, quiet: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run("train", "source", *data(streets), "--preset", "smoke", "--out", str(tmp_path), *settings(quiet))
    words = ["pseudo-label", str(tmp_path / "source" / "seed0"), "--target", str(streets.source)]
    run(*words, "--target-layout", "gta5", "--out", str(tmp_path / "labels"))
    labeled = {path.stem for path in (tmp_path / "labels" / "pseudo_labels").glob("*.png")}
    assert labeled == {f"{i:05}" for i in range(1, 7)}
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "others")])
    assert isinstance(result.exception, DatasetError)  # as trained: Cityscapes
    assert "of the cityscapes layout" in str(result.exception)


def test_ablation_skips_what_has_ended_and_resumes_the_rest(
    streets: Folders, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*quiet, "schedule.max_steps=4", "schedule.save_every=2"]
    jobs = plan(["source", "sim+ssl"], [0], "smoke", tmp_path, overrides=overrides)
    assert [job.recipe.name for job in jobs] == ["sim", "sim+ssl", "source"]  # the one waited for goes first
    events: list[Event] = []

    class PowerCut(Exception):
        pass

    def cut(event: Event) -> None:
        events.append(event)
        if event.task == "sim+ssl seed 0" and event.done == 4:
            raise PowerCut

    carry_out(jobs[0], streets, CPU)
    with pytest.raises(PowerCut):
        carry_out(jobs[1], streets, CPU, cut)
    assert jobs[0].run.result() is not None
    assert jobs[1].run.result() is None
    before = jobs[0].run.checkpoint.stat().st_mtime_ns
    resumed: list[Event] = []
    run_experiment(jobs, streets, CPU, resumed.append)
    assert all(job.run.result() is not None for job in jobs)
    assert jobs[0].run.checkpoint.stat().st_mtime_ns == before
    first = {event.task: event for event in reversed(resumed) if not event.note.startswith("labels")}
    assert first["sim seed 0"].note == "ended earlier"
    assert (first["sim+ssl seed 0"].done, first["sim+ssl seed 0"].note) == (2, "going on")
    again: list[Event] = []
    monkeypatch.setattr(processes, "_Pool", None)  # nothing is left to carry out
    run_experiment(jobs, streets, CPU, again.append)
    assert {event.kind for event in again} == {"finished"}
    other = plan(["source"], [0], "smoke", tmp_path, overrides=[*overrides, "optimizer.lr=0.25"])
    with pytest.raises(RunFolderError, match=r"optimizer\.lr"):
        run_experiment(other, streets, CPU, unwatched)


@pytest.mark.parametrize("count", [1, 2])
def test_one_failure_spares_the_rest(streets: Folders, quiet: list[str], tmp_path: Path, count: int) -> None:
    few = [*quiet, "schedule.max_steps=2"]
    good = plan(["source"], [0], "smoke", tmp_path, overrides=few)
    bad = plan(["aa"], [0], "smoke", tmp_path, overrides=[*few, "network.weights=nowhere.pt"])
    events: list[Event] = []
    with pytest.raises(RunsFailed, match=r"aa seed 0: FileNotFoundError: network.weights: .*nowhere.pt"):
        run_experiment([*bad, *good], streets, CPU, events.append, processes=count)
    assert good[0].run.result() is not None
    assert [event.kind for event in events if event.task == "source seed 0"][-1] == "finished"
    captured = bad[0].run.path / "error.txt"
    assert "Traceback" in captured.read_text()
    (again,) = plan(["aa"], [1], "smoke", tmp_path, overrides=few)
    again.run.path.mkdir(parents=True)
    captured.rename(again.run.path / "error.txt")  # of a try before
    run_experiment([again], streets, CPU, unwatched)
    assert not (again.run.path / "error.txt").exists()


def test_ablation_writes_a_report(run, streets: Folders, quiet: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shown = run(
        "ablation", *data(streets), "--recipes", "source,target-only", "--seeds", "0", "--preset", "smoke",
        "--out", str(tmp_path), "--classes", "road,sky,building", *settings(quiet),
    )  # fmt: skip
    assert "target only" in shown
    assert (tmp_path / "report" / "index.html").is_file()
    assert set(json.loads((tmp_path / "source/seed0/result.json").read_text())["iou"]) == {"road", "sky", "building"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "aa", "--from", "nowhere.pt"],
            "--from replaces the one run that a recipe depends on, got 'aa', which depends on none",
        ),
        (["ablation", "--generate"], "--generate draws the city for folders that are not given"),
        (["ablation", "--jobs", "0"], "--jobs"),
    ],
)
def test_options_without_an_effect_are_rejected(  # type: ignore[no-untyped-def]
    run, words: list[str], said: str, streets: Folders, tmp_path: Path
) -> None:
    shown = run(*words, *data(streets), "--preset", "smoke", "--out", str(tmp_path), code=2)
    assert re.search(said, " ".join(shown.replace("│", " ").split()))
    assert not list(tmp_path.iterdir())


def test_an_ablation_draws_the_city_of_the_seed_it_is_given(run, streets: Folders, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
    drawn: list[tuple[Folders, int]] = []
    monkeypatch.setattr(run_commands, "generate", lambda folders, budget, seed, watch: drawn.append((folders, seed)))
    monkeypatch.setattr(run_commands, "run_experiment", lambda *args, **kwargs: None)
    monkeypatch.setattr(run_commands, "write_reports_of", lambda *args: [])
    run("ablation", "--target", str(streets.target), "--generate", "--city-seed", "7", "--out", str(tmp_path))
    assert drawn == [(city_folders(tmp_path), 7)]


def test_demo_draws_runs_and_reports(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(run_commands, "ABLATION", ("source",))
    run("demo", "--budget", "smoke", "--out", str(tmp_path), "--jobs", "1")
    assert (tmp_path / "source" / "seed0" / "result.json").is_file()
    assert (tmp_path / "report" / "index.html").is_file()
    assert run("report", str(tmp_path)).count("index.html") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "aa+xyz"], "sum of aa, asn, "),
        (["train", "source", "--source", "nowhere"], "nowhere/images: expected a folder of the gta5 layout"),
        (["evaluate", "nowhere.pt"], "checkpoint nowhere.pt: expected a file written by `train`"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(
    words: list[str],
    said: str,
    streets: Folders,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rest = ["--target", str(streets.target)]
    if words[0] == "train":
        rest += ["--out", "runs", "--preset", "smoke"]
        if "--source" not in words:
            rest += ["--source", str(streets.source)]
    monkeypatch.setattr("sys.argv", ["gta5_to_cityscapes", *words, *rest])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert said in capsys.readouterr().err


def test_stopping_is_not_an_error(streets: Folders, elsewhere: Path, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    def stop(*args: object, **kwargs: object) -> None:
        raise Stopped("Give the same command again.")

    monkeypatch.setattr(run_commands, "carry_out", stop)
    monkeypatch.setattr("sys.argv", ["x", "train", "source", *data(streets), "--out", "runs", "--preset", "smoke"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert "same command again" in capsys.readouterr().err


def test_display_weighs_runs_by_their_work_and_shows_the_time_left(tmp_path: Path) -> None:
    with (tmp_path / "shown.txt").open("w") as file:
        display = ProgressDisplay({"short": 1.0, "long": 3.0}, overall="all", console=Console(file=file, width=200))
        with display:
            display(Event("short", 5, 10))
            assert display.share == pytest.approx(0.125)
            time.sleep(0.01)
            display(Event("long", 0, 10))
            display(Event("short", 10, 10, "mIoU 1.0", "finished"))
            display(Event("long", 5, 10))
            assert display.share == pytest.approx(0.625)
    lines = (tmp_path / "shown.txt").read_text().splitlines()
    assert lines[0].startswith(" 12%")
    assert "0:0" in lines[-1]


def test_display_on_a_terminal_does_not_take_earlier_work_for_this_calls(tmp_path: Path) -> None:
    costs = {"a": 1.0, "b": 1.0}
    shown = (tmp_path / "shown.txt").open("w")
    console = Console(file=shown, width=200, force_terminal=True)
    with shown, ProgressDisplay(costs, overall="all", console=console) as display:
        display(Event("a", 90, 100, "going on"))
        display(Event("b", 80, 100, "going on"))
        time.sleep(0.3)
        display(Event("a", 91, 100))
        whole = display._bars.tasks[0]
    # 0.005 of all in 0.3 s, and 0.145 left
    assert whole.completed == 85 or whole.completed == 86
    assert whole.fields["left"] >= "0:00:08"


def test_display_of_runs_that_go_on_shows_no_time_left_before_one_has_gone_further(tmp_path: Path) -> None:
    costs = {"a": 1.0, "b": 2.2, "c": 0.3}  # the shares of these do not add up to the last digit
    shown = (tmp_path / "shown.txt").open("w")
    with shown, ProgressDisplay(costs, overall="all", console=Console(file=shown, width=200)) as display:
        display(Event("a", 1, 12, "going on"))
        display(Event("b", 2, 12, "going on"))
    lines = (tmp_path / "shown.txt").read_text().splitlines()
    assert ["-:--:-- left" in line for line in lines] == [True, True]


def test_another_city_in_the_folder_is_reported_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate_city(tmp_path / "city", source_images=0, target_train=0, target_val=0, seed=3)
    monkeypatch.setattr("sys.argv", ["program", "demo", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "holds a city made with" in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.name == "nt", reason="a process group is sent a signal")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_saves_and_is_answered_once(
    streets: Folders, quiet: list[str], tmp_path: Path, kind: signal.Signals
) -> None:
    """Those that load its images get it too, and go on until the step has ended."""
    out = tmp_path / "runs"
    words = ["train", "aa", *data(streets), "--preset", "smoke", "--out", str(out), "--threads", "1"]
    options = settings([*quiet, "runtime.num_workers=1", "runtime.cache=false", "schedule.log_every=1"], 5000)
    training = in_its_own_group(*words, *options, "--set", "schedule.decay_steps=5000")
    metrics = out / "aa/seed0/metrics.jsonl"
    try:
        deadline = time.monotonic() + 60
        while not (metrics.is_file() and metrics.read_text().count("\n") > 3) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(training.pid, kind)
        _, said = training.communicate(timeout=60)
    finally:
        training.kill()
    assert training.returncode == 130, said
    assert said.count("stopping: this step is ended and saved first") == 1
    assert "saved in" in said
    assert (out / "aa/seed0/checkpoints/last.pt").is_file()


@pytest.mark.skipif(os.name == "nt", reason="a process group is sent a signal")
def test_ctrl_c_while_the_city_is_drawn_says_that_it_goes_on(tmp_path: Path) -> None:
    """As in a terminal: every process of the group gets the signal."""
    drawing = in_its_own_group("demo", "--out", str(tmp_path / "demo"))
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.png")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(drawing.pid, signal.SIGINT)
        _, said = drawing.communicate(timeout=30)
    finally:
        drawing.kill()
    assert drawing.returncode == 130
    assert "Interrupted. What has been written is kept; the same command goes on from there." in said
    assert "Traceback" not in said
