"""Every setting at its extremes: accepted, or rejected in one line that names it; never an error of another layer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from typer.testing import CliRunner

from examples.gta5_to_cityscapes.cli import app as program
from examples.gta5_to_cityscapes.cli.app import EXPECTED, app
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.gta5_to_cityscapes.distributed import local_device
from examples.gta5_to_cityscapes.experiments.experiment import carry_out, plan
from examples.gta5_to_cityscapes.recipes import RecipeError, preset_named
from examples.gta5_to_cityscapes.recipes.recipe import Preset

CPU = torch.device("cpu")
RECIPES = {
    "style_transfer": "it",
    "target_style_transfer": "tt",
    "adversarial": "asn",
    "pseudo_labels": "ssl",
    "entropy": "minent",
    "max_square": "maxsq",
    "fine_grained": "fada",
    "anchors": "cag",
    "teacher": "mix",
    "class_mixing": "mix",
    "masked_consistency": "mask",
}  # the others are of every recipe, or of sim
WHOLE = ("-1", "0", "1", "3", "65537", "1000000000", "4294967296", "9223372036854775808", "1.5", '"x"', "null", "[]")
REAL = ("-1", "0", "1e-300", "0.5", "1", "3", "1e30", "1e300", "NaN", "Infinity", "-Infinity", '"x"', "null", "[1]")
SEVERAL = (
    "[]", "[1]", "[0,0]", "[1,1]", "[2,1]", "[8,8]", "[24,48]", "[33,33]", "[-1,1]", "[1,1000000]", "[100000,100000]",
    "[0.5,2]", "[2,0.5]", "[1e-300,1e300]", "[NaN,1]", '["a","b"]', "[1,2,3]", "[null,1]", "null", "5", "{}",
)  # fmt: skip
WORDS = ('""', '"x"', '"aa"', '"../.."', '"\\u0000"', '"\\ud800"', "null", "5", "[]", "true")
SWITCHES = ("true", "false", "null", "2", '"x"')
OPTIONS = {
    "width": (*WHOLE, "4", "10"),
    "feature_dim": (*WHOLE, "7"),
    "dilations": (*SEVERAL, "[0]", "[1000]", "[-1]"),
    "head_dilations": (*SEVERAL, "[0]", "[1000]", "[-1]"),
    "norm": (*WORDS, '"group"', '"batch"'),
    "auxiliary": SWITCHES,
    "resolutions": (*WHOLE, "2"),
    "unknown": ("1",),
}


def values_for(value: Any) -> Sequence[str]:
    if isinstance(value, bool):
        return SWITCHES
    if isinstance(value, int):
        return WHOLE
    if isinstance(value, float):
        return REAL
    return SEVERAL if isinstance(value, tuple) else WORDS


def settings_of(preset: Preset) -> dict[str, Sequence[str]]:
    """Values to try by setting, as ``--set`` names it."""
    found: dict[str, Sequence[str]] = {"augmentation.crop": SEVERAL}
    shared = {name: getattr(preset, name) for name in type(preset).model_fields if name != "methods"}
    for name, group in {**shared, **preset.methods}.items():
        if not isinstance(group, BaseModel):
            found[name] = values_for(group)
            continue
        found |= {
            f"{name}.{each}": values_for(getattr(group, each))
            for each in type(group).model_fields
            if each not in ("options", "crop")
        }
    return found | {f"network.options.{name}": values for name, values in OPTIONS.items()}


SETTINGS = settings_of(preset_named("smoke"))


def planned(recipe: str, *overrides: str) -> None:
    plan([recipe], [0], "smoke", Path("nowhere"), overrides=overrides)


@cache
def rejection(setting: str, value: str) -> str | None:
    """Why a value is rejected in a recipe that uses the setting; None where it is taken."""
    recipe = RECIPES.get(setting.partition(".")[0], "aa+sim")
    try:
        planned(recipe, f"{setting}={value}")
    except RecipeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_extreme_value_is_taken_or_named(setting: str) -> None:
    said = [text for value in SETTINGS[setting] if (text := rejection(setting, value))]
    name = setting.rpartition(".")[2]
    assert [text for text in said if name not in text or "\n" in text] == []
    assert said or SETTINGS[setting] is WORDS  # a name of a file or folder, which is looked at when it is opened


def test_several_at_a_time_are_taken_or_rejected() -> None:
    rng, outcomes = random.Random(0), {"taken": 0, "rejected": 0}
    depend = ("data.", "augmentation.", "adversarial.", "evaluation.", "network.options.", "runtime.")  # on each other
    settings = {name: values for name, values in SETTINGS.items() if name.startswith(depend)}
    taken = {name: [each for each in values if rejection(name, each) is None] for name, values in settings.items()}
    names = [name for name, values in taken.items() if values]
    recipes = ("source", "target-only", "aa+it+sim+ssl", "asn", "fada", "mix", "mask+tt", "cag", "it+sym")
    for _ in range(80):
        overrides = [f"{name}={rng.choice(taken[name])}" for name in rng.sample(names, 12)]
        try:
            planned(rng.choice(recipes), *overrides)
            outcomes["taken"] += 1
        except RecipeError:
            outcomes["rejected"] += 1
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        (
            "source",
            ["data.batch=1", "data.source_size=[8,8]", "data.target_size=[8,8]", "augmentation.blur=0"],
            r"network small .*\[8, 8\] .*data\.source_size.*data\.batch: Expected more than 1",
        ),
        (
            "aa",
            ["data.source_size=[24,48]"],
            r"adversarial: .*at least 32 pixels .* got \[24, 48\] .*source_size",
        ),
        ("aa", ["data.target_size=[24,48]"], r"adversarial: .*got \[24, 48\] .*data\.target_size"),
        ("aa", ["adversarial.scale=0.5"], r"got \[24, 48\] .*adversarial\.scale \(0\.5\)"),
        ("source", ["data.source_size=[100000,100000]"], r"source_size: must be at most 67108864 pixels"),
        (
            "source",
            ["data.source_size=[2,96]"],
            r"augmentation\.blur needs .* at least 3 .* got \[2, 96\]",
        ),
        (
            "source",
            ["evaluation.scales=[1,1e5]"],
            r"evaluation\.scales must leave .*\[48, 96\] .*got 100000;",
        ),
        ("source", ["augmentation.scale=[0.9,0.1]"], r"augmentation\.scale: must be \(lowest, highest\)"),
        ("source", ["augmentation.scale=[0,1]"], r"augmentation\.scale\.0: .*greater than 0"),
        (
            "source",
            ["optimizer.kind=sgd", "optimizer.nesterov=true", "optimizer.momentum=0"],
            r"optimizer: nesterov needs a momentum above 0",
        ),
        ("aa", ["adversarial.levels=2"], r"adversarial\.levels=2 .* take the part asn"),
        ("ssl", ["pseudo_labels.rule=symmetric"], r"pseudo_labels\.rule=symmetric takes the labels of 2 networks"),
        ("source", ["network.options.width=10"], r'network\.options .*"width": 10.* width must be a positive multiple'),
        ("source", ['network.options.width="x"'], r"network\.options .* do not make a network small"),
        ("source", ["network.options.norm=layer"], r"norm must be 'group' or 'batch', got 'layer'"),
    ],
)
def test_settings_that_do_not_fit_are_named(recipe: str, overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        planned(recipe, *overrides)


@pytest.mark.parametrize(
    "item",
    [
        "",
        "=",
        "x",
        "..=1",
        "network=5",
        "network.options=5",
        "network.options.width.deep=1",
        "schedule.max_steps.deep=1",
        "data.source_size.0=5",
        "schedule.max_steps=" + 5000 * "9",
        "schedule.max_steps=" + 100_000 * "[",
    ],
    ids=lambda item: item[:30],
)
def test_what_is_not_a_setting_is_rejected(item: str) -> None:
    with pytest.raises(RecipeError, match=r"--set"):
        planned("source", item)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seeds_are_those_of_every_generator(seed: int) -> None:
    with pytest.raises(RecipeError, match="seed"):
        plan(["source"], [seed], "smoke", Path("nowhere"))


# Taken, and carried out: each ended in a traceback once, or is as far as its setting goes.
@pytest.mark.parametrize(
    ("recipe", "override"),
    [
        ("source", "data.source_size=[3,3]"),
        ("source", "augmentation.scale=[1e-300,1e-300]"),
        ("source", "augmentation.ratio_jitter=100"),
        ("source", "evaluation.scales=[1e-300]"),
        ("mask", "masked_consistency.block=2147483647"),
        ("source", "schedule.warmup=2147483647"),
    ],
)
def test_what_is_taken_can_be_trained(
    recipe: str, override: str, streets: Folders, tmp_path: Path, quiet: list[str]
) -> None:
    (job,) = plan([recipe], [0], "smoke", tmp_path, overrides=[*quiet, "schedule.max_steps=1", override])
    assert carry_out(job, streets, CPU).step == 1


def test_a_training_that_diverges_is_an_error_that_says_so(streets: Folders, tmp_path: Path, quiet: list[str]) -> None:
    (job,) = plan(["source"], [0], "smoke", tmp_path, overrides=[*quiet, "schedule.max_steps=2", "optimizer.lr=1e6"])
    with pytest.raises(FloatingPointError, match=r"Lower optimizer\.lr|lower optimizer\.lr"):
        carry_out(job, streets, CPU)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "could not read it"),
        (b"\x80\x02cos\nsystem\n.", "Nothing was run"),
        (b"PK\x03\x04 half a zip file", "could not read it"),
    ],
)
def test_start_weights_of_another_kind_leave_no_run_behind(
    streets: Folders, tmp_path: Path, quiet: list[str], content: bytes, said: str
) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    overrides = [*quiet, f"network.weights={tmp_path / 'weights.pth'}"]
    (job,) = plan(["source"], [0], "smoke", tmp_path / "runs", overrides=overrides)
    with pytest.raises(EXPECTED, match=rf"weights\.pth: expected .*{said}"):
        carry_out(job, streets, CPU)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "name", ["gpu", "meta", "mps", "cpu:0", "cuda:-1", "cuda:9999", "CUDA", "", "cuda:0:1", "cpu "]
)
def test_devices_are_named_or_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected (auto, cpu, cuda or one GPU|one of the \d+ GPUs)|no CUDA device"):
        local_device(name)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "source", "--seed", str(2**40)], "seed"),
        (["train", "source", "--threads", "1000000000"], "--threads"),
        (["train", "source", "--classes", "road,road"], "classes must name each class once, got road"),
        (["train", "source", "--device", "meta"], "--device meta: expected auto, cpu, cuda or one GPU"),
        (["ablation", "--seeds", "0,0"], "--seeds expects each seed once"),
        (["ablation", "--seeds", ""], "--seeds expects numbers"),
        (["ablation", "--jobs", "1000000000"], "--jobs"),
    ],
)
def test_options_at_their_extremes_are_named(words: list[str], said: str, streets: Folders, elsewhere: Path) -> None:
    rest = ["--source", str(streets.source), "--target", str(streets.target), "--preset", "smoke", "--out", "runs"]
    result = CliRunner().invoke(app, [*words, *rest])
    shown = " ".join(f"{result.output} {result.exception}".replace("│", " ").split())
    assert said in shown
    assert result.exit_code == 2 or isinstance(result.exception, RecipeError)
    assert not (elsewhere / "runs").exists()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), partial(torch.empty, 2**50)],
    ids=["Python", "CUDA", "CPU"],
)
def test_a_lack_of_memory_is_one_line(
    error: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        if isinstance(error, Exception):
            raise error
        error()

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(SystemExit) as left:
        program.main()
    assert left.value.code == 1
    assert "Lower data.batch" in capsys.readouterr().err


def test_another_runtime_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a fault in here")

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(RuntimeError, match="a fault in here"):
        program.main()
