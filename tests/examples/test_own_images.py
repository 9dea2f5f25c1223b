"""Class files and the folder layout, and the page about one's own images, run as it is printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from examples.gta5_to_cityscapes.cli.app import app
from examples.gta5_to_cityscapes.config import LayoutConfig
from examples.gta5_to_cityscapes.data import DatasetError, open_dataset, read_classes
from examples.gta5_to_cityscapes.data.classes import class_file_names
from examples.gta5_to_cityscapes.recipes import Recipe, RecipeError, compose_recipe
from stuffinstance import CITYSCAPES, SYNTHIA_16
from tests.code_blocks import code_blocks

PAGE = Path(__file__).parents[2] / "docs" / "own_images.md"
CLASSES = {
    "names": ["floor", "box"],
    "stuff": ["floor"],
    "things": ["box"],
    "source": {"floor": [1, 2], "box": 9, "ignore": 0},
    "target": {"floor": 0, "box": 1},
}


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def draw(root: Path, image: str, label: str | None, ids: list[int], seed: int) -> None:
    """An image whose rows have the colors of their ids, and its label map."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.array(ids), 48 // len(ids))[:, None].repeat(96, 1)
    save(root / "images" / image, np.stack([rows * 17 % 256, rows * 71 % 256, rng.integers(0, 256, rows.shape)], -1))
    if label is not None:
        save(root / "labels" / label, rows)


# --- class files ---


def test_the_default_class_files_are_the_spaces_of_the_library() -> None:
    assert read_classes("cityscapes").space == CITYSCAPES
    assert read_classes("synthia16").space == SYNTHIA_16


@pytest.mark.parametrize("file", class_file_names())
def test_class_files_of_the_repository_give_every_class_an_id_in_both_domains(file: str) -> None:
    classes = read_classes(file)
    assert set(classes.stuff) | set(classes.things) == set(classes.names)
    for domain in (classes.source, classes.target):
        assert domain.keys() == {*classes.names, "ignore"}
    recipe = compose_recipe("aa", class_file=file)
    assert recipe.label_space == classes.space
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe


def test_several_ids_go_to_one_class_in_each_domain(tmp_path: Path) -> None:
    classes = read_classes(written(tmp_path / "own.yaml", CLASSES))
    assert (classes.name, classes.space.stuff, classes.space.things) == ("own", (0,), (1,))
    source, target = classes.table("source"), classes.table("target")
    assert source.ids[[0, 1, 2, 9, 10]].tolist() == [255, 0, 0, 1, 255]
    assert source.known[[0, 1, 2, 9, 10]].tolist() == [True, True, True, True, False]
    assert target.ids[[0, 1, 2]].tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"names": []}, "names"),
        ({"names": ["floor", "floor"]}, "names"),
        ({"names": ["floor", "box", "ignore"]}, "names"),
        ({"stuff": ["flor"]}, "stuff"),
        ({"stuff": ["floor", "box"]}, "stuff and things"),
        ({"source": {"floor": [1], "crate": 9}}, "source .*crate"),
        ({"target": {"floor": [0, 1], "box": 1}}, r"target .*\[1\] more than once"),
        ({"target": {"ignore": [0, 1]}}, "target must have an id for at least one class"),
        ({"target": {"floor": 256}}, r"target\.floor"),
        ({"target": {"floor": True}}, r"target\.floor"),
        ({"colors": []}, "colors"),
    ],
)
def test_class_files_that_are_inconsistent_raise(tmp_path: Path, change: dict[str, object], named: str) -> None:
    with pytest.raises(DatasetError, match=rf"own\.yaml: .*{named}"):
        read_classes(written(tmp_path / "own.yaml", CLASSES | change))


def test_what_is_not_a_class_file_raises(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: expected a YAML file or one of camvid11, .*, found none"):
        read_classes("nowhere")
    for content in ("names: [", "[1, 2]", ""):
        with pytest.raises(DatasetError, match=r"own\.yaml: expected"):
            read_classes(written(tmp_path / "own.yaml", content))


# --- the folder layout ---


def test_pairs_are_found_by_stem_in_any_folder_and_format(tmp_path: Path) -> None:
    draw(tmp_path, "monday/b.JPEG", "b.png", [1, 9], 0)
    draw(tmp_path, "a.tif", "deep/er/a.tif", [2, 9], 1)
    draw(tmp_path, "c.webp", "c.png", [0, 1], 2)
    (tmp_path / "images/notes.txt").touch()
    table = read_classes(written(tmp_path / "own.yaml", CLASSES)).table("source")
    dataset = open_dataset("folder", tmp_path, table=table)
    assert dataset.names == ["a", "b", "c"]
    assert [sample.labels[:, 0].unique().tolist() for sample in dataset] == [[0, 1], [0, 1], [0, 255]]
    assert dataset[0].image[:, 0, 0].tolist()[:2] == [2 * 17, 2 * 71]
    with pytest.raises(DatasetError, match=r"images/val: split must be one that exists"):
        open_dataset("folder", tmp_path, split="val")
    save(tmp_path / "images/tuesday/b.png", np.zeros((4, 4, 3)))
    with pytest.raises(DatasetError, match="Remove one of them"):
        open_dataset("folder", tmp_path)


@pytest.mark.parametrize("name", ["images/b.BMP", "labels/b.gif"])
def test_images_of_formats_that_are_not_read_raise(tmp_path: Path, name: str) -> None:
    draw(tmp_path, "a.png", "a.png", [1, 9], 0)
    (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=rf"{name}: expected (image|label map)s as png, .*\(1 files of such kinds\)"):
        open_dataset("folder", tmp_path)


def test_splits_are_folders_and_only_labels_that_are_read_are_needed(tmp_path: Path) -> None:
    draw(tmp_path, "train/a.jpg", None, [0, 1], 0)
    draw(tmp_path, "val/x/b.jpg", "val/b.png", [0, 1], 1)
    assert open_dataset("folder", tmp_path, labels=False).names == ["a"]
    assert open_dataset("folder", tmp_path, split="val").names == ["b"]
    with pytest.raises(DatasetError, match=r"labels/train: split must be one that exists"):
        open_dataset("folder", tmp_path)
    (tmp_path / "labels/train").mkdir()
    with pytest.raises(DatasetError, match=r"a\.jpg: expected its label map at .*1 of 1"):
        open_dataset("folder", tmp_path)


def test_tiffs_that_are_turned_or_have_several_pages_raise(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    for name, words in {
        "turned": {"tiffinfo": {274: 6}},
        "pages": {"save_all": True, "append_images": [image]},
    }.items():
        (tmp_path / name / "images").mkdir(parents=True)
        image.save(tmp_path / name / "images/a.tif", **words)
        with pytest.raises(DatasetError, match=r"a\.tif: expected a(n upright| single)"):
            open_dataset("folder", tmp_path / name, labels=False)[0]


# --- the page ---


def commands(page: Path) -> list[list[str]]:
    """The words of each command of the pipeline that the page shows."""
    lines = [line for block in code_blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    start = "python -m examples.gta5_to_cityscapes "
    return [shlex.split(line.removeprefix(start)) for line in lines if line.startswith(start)]


@pytest.mark.usefixtures("in_process")
def test_the_commands_of_the_page_run(elsewhere: Path) -> None:
    (yaml_block,) = code_blocks(PAGE, "yaml")
    written(elsewhere / "classes.yaml", yaml_block)
    for i in range(3):
        draw(elsewhere / "warehouse", f"monday/{i:04}.jpg", f"{i:04}.png", [1, 3, 4, 10, 20, 0], i)
        draw(elsewhere / "field", f"train/{i:04}.jpg", None, [0, 1, 2, 3, 4, 255], i)
    draw(elsewhere / "field", "val/camera2/0801.jpg", "val/0801.png", [0, 1, 2, 3, 7, 255], 9)
    small = ["--preset", "smoke"]
    for setting in (
        "schedule.max_steps=1", "runtime.tensorboard=false", "evaluation.previews=1", "network.options.width=8",
        "data.source_size=[48,96]", "data.target_size=[48,96]", "augmentation.crop=null",
    ):  # fmt: skip
        small += ["--set", setting]
    shown = {}
    for words in commands(PAGE):
        result = CliRunner().invoke(app, [*words, *(small if words[0] == "ablation" else [])], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        shown[words[0]] = result.output
    assert shown.keys() == {"check", "ablation", "pseudo-label", "evaluate"}
    assert "source: 3 images (48x96, height x width), 3 of them read" in shown["check"]
    assert "ids without a row in the class file, ignored (id: pixels): {7: 768}" in shown["check"]
    assert "not seen: person" in shown["check"]
    runs = elsewhere / "runs/field"
    result = json.loads((runs / "aa+it+sim+ssl/seed0/result.json").read_text())
    assert list(result["iou"]) == ["floor", "wall", "shelf", "box", "person"]
    assert f"{100 * result['miou']:.1f}" in shown["evaluate"]
    assert (runs / "report/index.html").is_file()
    assert len(list((elsewhere / "labels/pseudo_labels").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stuf: [floor]", "stuf must be one of names, stuff, things, source, target"),
        ("things: box", r"things must be a list such as \[road, car\], got 'box'"),
        (
            "source: {floor: thirty}",
            r"source\.floor: must be an id such as 10 or a list such as \[10, 20\], got 'thirty'",
        ),
        ("source: {floor: 1, floor: 2}", "floor is given more than once"),
        ("things: [floor, box]", "stuff and things must not share a class"),
    ],
)
def test_mistakes_in_a_class_file_say_what_to_write(tmp_path: Path, text: str, reason: str) -> None:
    kept = {key: value for key, value in CLASSES.items() if key != text.partition(":")[0]}
    file = written(tmp_path / "own.yaml", kept)
    file.write_text(f"{file.read_text()}\n{text}\n")
    with pytest.raises(DatasetError, match=rf"own\.yaml: .*{reason}") as raised:
        read_classes(file)
    assert "Value error" not in str(raised.value)
    assert ".." not in str(raised.value)


def test_images_of_ones_own_need_a_class_file() -> None:
    with pytest.raises(RecipeError, match=r"--class-file .*idd7"):
        compose_recipe("aa", layouts=LayoutConfig(source="folder"))
    assert compose_recipe("aa", layouts=LayoutConfig(source="folder"), class_file="idd7")


def test_a_group_of_settings_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(RecipeError, match=r"unknown group 'matchin'; there are .*matching"):
        compose_recipe("sim", overrides=["matchin.weight=1"])
