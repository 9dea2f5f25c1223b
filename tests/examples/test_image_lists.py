"""Subsets named in text files: what a line may say, what is rejected, and what of a run they change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from examples.gta5_to_cityscapes.cli.app import app
from examples.gta5_to_cityscapes.data import DatasetError, SegmentationDataset, open_dataset
from examples.gta5_to_cityscapes.data.image_lists import MAX_BYTES
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.recipes import compose_recipe

TARGET = "tiny_{:06}_000019".format
CITY = "leftImg8bit/train/tiny"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def listed(streets: Folders, file: Path, layout: str = "gta5") -> SegmentationDataset:
    root = streets.source if layout == "gta5" else streets.target
    return open_dataset(layout, root, listed=file)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lines",
    [
        ("images/00004.png", "images/00002.png"),
        ("00004.png", "./images/00002.png"),
        ("00004", "", "  00002 ", ""),
        ("\ufeff00004\r", "00002\r"),
    ],
)
def test_a_line_is_a_path_the_end_of_one_or_a_name_and_the_order_stays(
    streets: Folders, tmp_path: Path, lines: tuple[str, ...]
) -> None:
    dataset = listed(streets, written(tmp_path / "list.txt", *lines))
    assert dataset.names == ["00002", "00004"]
    whole = open_dataset("gta5", streets.source)
    assert [each.image for each in dataset.files] == [whole.files[i].image for i in (1, 3)]


@pytest.mark.parametrize(
    "line", [f"{CITY}/{TARGET(2)}_leftImg8bit.png", f"tiny/{TARGET(2)}_leftImg8bit.png", TARGET(2)]
)
def test_cityscapes_lists_may_start_at_any_folder(streets: Folders, tmp_path: Path, line: str) -> None:
    assert listed(streets, written(tmp_path / "list.txt", line), "cityscapes").names == [TARGET(2)]


def test_an_image_off_the_list_needs_no_label_map(streets: Folders, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "gta5" / folder).mkdir(parents=True)
        for name in ("00001", "00002"):
            if (folder, name) != ("labels", "00002"):
                content = (streets.source / folder / f"{name}.png").read_bytes()
                (tmp_path / "gta5" / folder / f"{name}.png").write_bytes(content)
    file = written(tmp_path / "list.txt", "00001")
    assert open_dataset("gta5", tmp_path / "gta5", listed=file)[0].name == "00001"
    with pytest.raises(DatasetError, match=r"00002\.png: expected its label map"):
        open_dataset("gta5", tmp_path / "gta5", listed=written(file, "00001", "00002"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/etc/passwd", "is an absolute path"),
        ("images/../../secret.png", "holds '..'"),
        ("..", "holds '..'"),
        ("C:/images/00001.png", "starts with a drive letter"),
        ("c:00001.png", "starts with a drive letter"),
        ("images\\00001.png", "holds a backslash"),
        ("\\\\server\\share\\00001.png", "holds a backslash"),
        ("images/00001.png\0.txt", "holds a control character"),
        ("images/00001.png\tlabels/00001.png", "holds a control character"),
    ],
)
def test_lines_that_lead_out_of_the_folder_are_rejected(
    streets: Folders, tmp_path: Path, line: str, reason: str
) -> None:
    file = written(tmp_path / "list.txt", "00001", "", line)
    with pytest.raises(DatasetError) as captured:
        listed(streets, file)
    assert f"{file}, line 3, {line!r}: expected a path relative to {streets.source}" in str(captured.value)
    assert reason in str(captured.value)


def test_absent_images_are_counted_and_the_first_is_named(streets: Folders, tmp_path: Path) -> None:
    file = written(tmp_path / "list.txt", "00001", "00077", "labels/00001.png", "images", ".", "x" * 500)
    with pytest.raises(
        DatasetError,
        match=r"names of the 6 images found in .*gta5, 5 lines name none of them, the first is line 2, '00077'\. "
        r"Write them as 'images/00001\.png' or '00001'",
    ):
        listed(streets, file)
    with pytest.raises(DatasetError, match=r"the first is line 1, 'x{80}…'"):
        listed(streets, written(file, "x" * 500))
    with pytest.raises(DatasetError, match="1 lines name none"):  # of another split
        open_dataset("cityscapes", streets.target, split="val", listed=written(file, f"{CITY}/{TARGET(0)}.png"))


def test_an_image_named_twice_is_rejected_in_whatever_way(streets: Folders, tmp_path: Path) -> None:
    file = written(tmp_path / "list.txt", "00001", "00002", "images/00001.png", "00002")
    with pytest.raises(
        DatasetError, match=r"2 lines name one again, the first is line 3, 'images/00001\.png', the same .* as line 1"
    ):
        listed(streets, file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no line"),
        (b"\n \r\n\t\n", "found no line"),
        (b"\x89PNG\r\n\x1a\n", "expected UTF-8 text"),
        ("00001".encode("utf-16"), "expected UTF-8 text"),
        (b"00001\n" * (MAX_BYTES // 6 + 1), f"at most {MAX_BYTES} bytes"),
    ],
)
def test_what_is_not_a_list_is_rejected(streets: Folders, tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"list\.txt: .*{message}"):
        listed(streets, file)


@pytest.mark.parametrize("name", ["absent.txt", "."])
def test_a_list_that_is_not_a_file_is_rejected(streets: Folders, tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="expected a text file that names images, found none"):
        listed(streets, tmp_path / name)


def test_links_that_the_owner_of_a_folder_made_are_followed(streets: Folders, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.symlink_to(streets.source, target_is_directory=True)
    file = written(tmp_path / "list.txt", "00001")
    assert open_dataset("gta5", linked, listed=file).names == ["00001"]
    by_file = tmp_path / "by_file"
    (by_file / "images").mkdir(parents=True)
    (by_file / "images" / "00001.png").symlink_to(streets.source / "images" / "00001.png")
    assert len(open_dataset("gta5", by_file, labels=False, listed=file)[0].image) == 3
    (by_file / "images" / "00004.png").symlink_to(by_file / "images" / "00004.png")
    with pytest.raises(DatasetError, match=r"00004\.png: expected a PNG, JPEG, TIFF or WebP image"):
        open_dataset("gta5", by_file, labels=False, listed=written(file, "00004"))[0]


@pytest.mark.parametrize("recipe", ["aa", "target-only"])
def test_lists_change_the_training_images_and_their_fingerprints_alone(
    streets: Folders, tmp_path: Path, recipe: str
) -> None:
    chosen = compose_recipe(recipe, "smoke")
    whole = open_training_data(chosen, streets)
    lists = {
        "source_list": written(tmp_path / "source.txt", "00003", "00001"),
        "target_list": written(tmp_path / "target.txt", *map(TARGET, (3, 1, 0))),
    }
    part = open_training_data(chosen, replace(streets, **lists))
    assert part.validation.names == whole.validation.names
    identity, of_all = part.inputs.identity(), whole.inputs.identity()
    assert identity["validation"] == of_all["validation"]
    labeled = ["00001", "00003"] if recipe == "aa" else [TARGET(i) for i in (0, 1, 3)]
    assert part.labeled.names == labeled
    assert identity["labeled"]["count"] == len(labeled)
    assert identity["labeled"]["images"] != of_all["labeled"]["images"]
    if part.target is not None:
        assert part.target.names == [TARGET(i) for i in (0, 1, 3)]
        assert identity["target"] != of_all["target"]


@pytest.mark.usefixtures("in_process")
def test_commands_take_lists(streets: Folders, quiet: list[str], tmp_path: Path) -> None:
    source, target = written(tmp_path / "s.txt", "00001", "00005"), written(tmp_path / "t.txt", TARGET(1))
    folders = ["--source", str(streets.source), "--target", str(streets.target)]
    lists = ["--source-list", str(source), "--target-list", str(target)]

    def call(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return " ".join(result.output.replace("│", " ").split())

    shown = call("check", *folders, *lists)
    assert "target, training: 1 images" in shown
    assert "source: 2 images (48x96, height x width), 2 of them read" in shown
    assert "target, validation: 3 images (48x96, height x width), 3 of them read" in shown
    few = [word for each in (*quiet, "schedule.max_steps=2") for word in ("--set", each)]
    out = ["--preset", "smoke", "--out", str(tmp_path / "runs"), *few]
    call("ablation", "--recipes", "aa+tt", *folders, *lists, *out)
    run = tmp_path / "runs" / "aa+tt" / "seed0"
    data = json.loads((run / "data.json").read_text())
    assert {name: data[name]["count"] for name in ("labeled", "target", "validation")} == {
        "labeled": 2, "target": 1, "validation": 3,
    }  # fmt: skip
    call("train", "aa+tt", *folders, *lists, *out)  # the same run, which has ended
    labels = ["--out", str(tmp_path / "labels")]
    call("pseudo-label", str(run), *folders, *lists, *labels)
    assert [each.name for each in (tmp_path / "labels" / "pseudo_labels").glob("*.png")] == [f"{TARGET(1)}.png"]
    # Each validation image goes towards one of the source images that the network was trained with.
    scored = call("evaluate", str(run), *folders, "--source-list", str(source))
    assert f"{100 * json.loads((run / 'result.json').read_text())['miou']:.1f}" in scored
    lone = ["evaluate", str(run), "--target", str(streets.target), "--source-list", str(source)]
    assert "give --source, the folder that holds them" in call(*lone, code=2)
