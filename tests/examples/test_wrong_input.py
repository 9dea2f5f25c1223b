"""Wrong options, settings and files raise one line that says what to do, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.gta5_to_cityscapes import __main__ as program
from examples.gta5_to_cityscapes.data import DatasetError, open_dataset
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.recipes import RecipeError, compose_recipe

from .commands import REPOSITORY, data, in_one_line, invoke

Failure = Callable[..., tuple[str, str]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "source", "--threads", "-3"], "--threads"),
        (["train", "source", "--seed", "-1"], "--seed"),
        (["train", "source", "--style-transfer", "wat"], "--style-transfer wat sets the style transfer"),
        (["train", "source", "--out", "a_file"], "is a file"),
        (["train", "source", "--device", "gpu"], "--device gpu: expected auto, cpu, cuda or one GPU"),
        (["ablation", "--seeds=0,-1"], "--seeds expects numbers from 0 up"),
        (
            ["ablation", "--recipes", "source,aa", "--style-transfer", "lab"],
            "--style-transfer lab sets the style transfer",
        ),
        (["pseudo-label", "nowhere.pt", "--quantile", "3"], "--quantile"),
        (["pseudo-label", "nowhere.pt", "--cap", "3"], "--cap"),
        (["pseudo-label", "nowhere.pt", "--quantile", "nan"], "--quantile"),
        (["demo", "--seed", "-1"], "--seed"),
        (["train", "aa", "--from", "nowhere.pt"], "--from replaces the one run that a recipe depends on, got 'aa'"),
        (["ablation", "--generate"], "--generate draws the city for folders that are not given"),
        (["ablation", "--jobs", "0"], "--jobs"),
        (["experiment", "table7"], "table2, table3, table4, table6, figure2"),
        (["experiment", "figure2", "--style-transfer", "lab"], "none of these recipes has that part"),
    ],
)
def test_wrong_options_are_rejected(words: list[str], said: str, streets: Folders, elsewhere: Path) -> None:
    (elsewhere / "a_file").touch()
    rest = {"--target": str(streets.target), "--out": "runs"} if words[0] != "demo" else {"--out": "runs"}
    if words[0] in ("train", "ablation", "experiment"):
        rest |= {"--source": str(streets.source), "--preset": "smoke"}
    given = [word for name, value in rest.items() if name not in words for word in (name, value)]
    assert said in in_one_line(invoke(*words, *given, code=2))
    assert not (elsewhere / "runs").exists()


@pytest.mark.parametrize(
    ("recipe", "override", "words"),
    [
        ("source", "data.source_size=[0,5]", r"data\.source_size\.0.*greater than or equal to 1"),
        ("source", "augmentation.crop=[0,5]", r"augmentation\.crop\.0"),
        ("aa+ssl", "pseudo_labels.cap=3", r"pseudo_labels\.cap"),
        ("source", "augmentation.crop=[500,100]", r"crop \[500, 100\] must not be larger than data\.source_size"),
        ("target-only", "data.target_size=[90,240]", r"must not be larger than data\.target_size \[90, 240\]"),
        ("aa", "data.target_size=[90,240]", r"must not be larger than data\.target_size"),
        ("aa", "adversarial.lr=-1", r"adversarial\.lr: .*greater than 0"),
        ("sim", "matching.capacity=0", r"matching\.capacity"),
        ("fada", "fine_grained.clip=2", r"fine_grained\.clip"),
        ("fada", "fine_grained.width=5", r"fine_grained\.width: .*multiple of 2"),
        ("cag", "anchors.margin=-1", r"anchors\.margin"),
        ("cag", "anchors.label_weight=NaN", r"anchors\.label_weight: .*finite"),
        ("iast", "pseudo_labels.alpha=5", r"pseudo_labels\.alpha"),
        ("it", "style_transfer.window=0.9", r"style_transfer\.window"),
        ("asn", "network.name=segformer", r"part 'asn' needs a network with the option auxiliary, which segformer"),
    ],
)
def test_wrong_settings_are_rejected(recipe: str, override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        compose_recipe(recipe, "small", overrides=[override])


def test_recipe_error_names_all_settings_that_do_not_fit() -> None:
    with pytest.raises(RecipeError, match=r"'full'.*: mix pastes source images \[720, 1280\] .*augmentation\.crop\.$"):
        compose_recipe("mix", "full")


def test_a_crop_need_not_fit_images_that_the_recipe_does_not_crop() -> None:
    small = "data.target_size=[90,240]"
    compose_recipe("source", "small", overrides=[small])
    compose_recipe("aa", "small", overrides=[small, "augmentation.target=none"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "aa+xyz"], "sum of aa, asn, "),
        (["train", "source", "--source", "nowhere"], "nowhere/images: expected a folder of the gta5 layout"),
        (["train", "source", "--out", "a_file/runs"], "Not a directory"),
        (["evaluate", "nowhere.pt"], "checkpoint nowhere.pt: expected a file written by `train`"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(
    words: list[str], said: str, streets: Folders, elsewhere: Path, failure: Failure
) -> None:
    (elsewhere / "a_file").touch()
    options = {"--target": streets.target}
    if words[0] == "train":
        options |= {"--source": streets.source, "--out": Path("runs"), "--preset": Path("smoke")}
    rest = [word for name, value in options.items() if name not in words for word in (name, value)]
    assert said in failure(*words, *rest)[1]


@pytest.mark.parametrize("file", ["recipe.json", "result.json", "data.json"])
@pytest.mark.parametrize(("content", "said"), [("{", "could not read it"), ("[]", "got list"), ("{}", "expected")])
def test_a_damaged_file_of_a_run_is_reported_without_a_traceback(
    file: str, content: str, said: str, streets: Folders, elsewhere: Path, failure: Failure
) -> None:
    folder = elsewhere / "runs" / "source" / "seed0"
    folder.mkdir(parents=True)
    if file == "data.json" and content == "{}":
        content = '{"validation": 3}'
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.pt").touch()
    (folder / file).write_text(content)
    shown = failure("train", "source", *data(streets), "--out", "runs", "--preset", "smoke")[1]
    for text in (str(Path("source", "seed0")), said, "elete"):
        assert text in shown


@pytest.mark.parametrize(("recipe", "group"), [("it", "style_transfer"), ("tt", "target_style_transfer")])
def test_an_absent_folder_of_transferred_images_names_its_setting(recipe: str, group: str, streets: Folders) -> None:
    absent = compose_recipe(recipe, "smoke", overrides=[f"{group}.method=nowhere"])
    with pytest.raises(FileNotFoundError, match=rf"{group}\.method .*got 'nowhere', which is not a folder"):
        open_training_data(absent, streets)


def test_an_unknown_split_names_those_that_exist(streets: Folders) -> None:
    with pytest.raises(DatasetError, match=r"got 'test'; .*leftImg8bit has train, val\."):
        open_dataset("cityscapes", streets.target, split="test")
    with pytest.raises(DatasetError, match="split must be 'train'"):
        open_dataset("gta5", streets.source, split="test")


def test_an_absent_package_is_reported_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    paths = os.pathsep.join((str(tmp_path), str(REPOSITORY)))
    command = [sys.executable, "-m", "examples.gta5_to_cityscapes"]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the Python package typer is not installed")
    assert "pip install -e '.[examples]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_stop_during_imports_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.__import__", stop)
    with pytest.raises(SystemExit) as left:
        program.start()
    monkeypatch.undo()
    assert left.value.code == 130
    assert capsys.readouterr().err == "Interrupted before anything was begun.\n"
