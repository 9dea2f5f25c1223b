"""Files come from others: nothing in one is run, and nothing it claims is believed before it is bounded."""

from __future__ import annotations

import ast
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.gta5_to_cityscapes.atomic_io import DamagedFileError, read_json
from examples.gta5_to_cityscapes.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from examples.gta5_to_cityscapes.data import DatasetError, open_dataset, read_id_map, read_image
from examples.gta5_to_cityscapes.data.image_files import MAX_PIXELS, image_size, read_first_channel
from examples.gta5_to_cityscapes.data.style_transfer import TransferredImages
from examples.gta5_to_cityscapes.data.training_data import PseudoLabeled
from examples.gta5_to_cityscapes.models import WeightsError, build_network
from examples.gta5_to_cityscapes.recipes import Recipe, compose_recipe
from examples.gta5_to_cityscapes.report.images import read_previews
from examples.gta5_to_cityscapes.report.results import read_banks, read_experiment, read_run
from examples.gta5_to_cityscapes.training.recipe_network import trained_network

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(path for folder in ("src", "examples", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py"))

RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
    "dill.load", "dill.loads", "joblib.load", "pandas.read_pickle", "torch.hub.load",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
}  # fmt: skip
# What a call must say, and as what, to be safe; without a value, that it says it at all.
MUST_SAY: Mapping[str, tuple[str, bool | None]] = {
    "torch.load": ("weights_only", True),
    "PIL.Image.open": ("formats", None),  # Pillow runs a program for some kinds
}
MUST_NOT_SAY = {"allow_pickle", "shell", "trust_remote_code"}  # other than False
# These decode without a bound, so they stand where the size is looked at before.
BOUNDED = {
    "cv2.imdecode": {
        "examples/gta5_to_cityscapes/data/image_files.py",
        "benchmarks/loader.py",  # images that it has drawn itself
    },
    "cv2.imread": set(),
    "skimage.io.imread": set(),
    "matplotlib.image.imread": set(),
    "PIL.Image.open": {
        "examples/gta5_to_cityscapes/data/image_files.py",
        "examples/generated_city/rendering.py",  # what it has just encoded itself
    },
}


def unsafe_uses(source: str, path: str = "") -> list[str]:
    """What a file does that could run, or without a bound decode, what a stranger wrote."""
    tree = ast.parse(source)
    imported = dict(_imported_names(tree))
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [
                f"{each.arg}={ast.unparse(each.value)}"
                for each in node.keywords
                if each.arg in MUST_NOT_SAY and not _is(each.value, False)
            ]
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        name = _full_name(node, imported)
        if name in RUNS_CODE or (name in BOUNDED and path not in BOUNDED[name]):
            found.append(name)
        if name in MUST_SAY:
            keyword, value = MUST_SAY[name]
            call = called.get(id(node))
            said = [each.value for each in call.keywords if each.arg == keyword] if call is not None else []
            if not said or (value is not None and not _is(said[0], value)):
                found.append(f"{name} without {keyword}")
    return found


def _imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield (each.asname, each.name) if each.asname else (each.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                yield each.asname or each.name, f"{node.module}.{each.name}"


def _full_name(node: ast.expr, imported: Mapping[str, str]) -> str:
    """``np.load`` as ``numpy.load``; anything but a name gives a name that nothing has."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id)
    return f"{_full_name(node.value, imported)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_is_run_or_decoded_without_a_bound(path: Path) -> None:
    assert unsafe_uses(path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY).as_posix()) == []


UNSAFE = (
    "import pickle\npickle.load(file)", "from pickle import loads as read\nread(content)",
    "import pickle as p\nreader = p.Unpickler", "import torch\ntorch.load(path)",
    "import torch\ntorch.load(path, weights_only=False)", "import torch\ntorch.load(path, weights_only=chosen)",
    "from torch import load\nload(path, map_location='cpu')", "import torch\nfor read in (torch.load,): read(path)",
    "import numpy as np\nnp.load(path, allow_pickle=True)", "import numpy\nnumpy.load(path, allow_pickle=flag)",
    "eval('1')", "exec(text)", "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
    "import subprocess\nsubprocess.run('ls', shell=True)", "from os import system\nsystem('ls')",
    "from PIL import Image\nImage.open(path, formats=('PNG',))", "import cv2\ncv2.imread(path)",
)  # fmt: skip
SAFE = (
    "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass", "import re\nre.compile('x')",
    "import torch\ntorch.load(path, weights_only=True)\nnetwork.eval()\ntorch.compile(network)",
    "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)", "import yaml\nyaml.safe_load(text)",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
)  # fmt: skip


def test_what_is_unsafe_is_found_and_what_is_safe_passes() -> None:
    assert [source for source in UNSAFE if not unsafe_uses(source)] == []
    assert [source for source in SAFE if unsafe_uses(source)] == []
    image = "from PIL import Image\nImage.open(path)"
    assert unsafe_uses(image, "examples/gta5_to_cityscapes/data/image_files.py") == ["PIL.Image.open without formats"]


# --- hostile files, given to the readers themselves ---


class _Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.mark, "ran")


@pytest.mark.parametrize("name", ["last.pt", "weights.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_code_in_a_checkpoint_or_weights_is_not_run(tmp_path: Path, name: str, how: str) -> None:
    mark = tmp_path / "mark"
    folder = tmp_path / "experiment" / "sim" / "seed0" / "checkpoints"
    folder.mkdir(parents=True)
    (folder.parent / "recipe.json").write_text("{}")
    file = folder / name
    content = {"format": 1, "network": _Bomb(mark), "sim": _Bomb(mark), "state_dict": _Bomb(mark)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    for read in (load_checkpoint, lambda path: trained_network(path, torch.device("cpu"))):
        with pytest.raises(CheckpointError, match="could not read it"):
            read(file)
    with pytest.raises(WeightsError, match="expected tensors only"):
        build_network("small", 19, weights=file)
    banks, problems = read_banks(read_experiment(tmp_path / "experiment"))
    assert banks is None
    assert [("cannot be read" in problem) for problem in problems] == ([True] if name == "last.pt" else [])
    assert not mark.exists()


def test_a_recipe_in_a_checkpoint_opens_no_weights(tmp_path: Path) -> None:
    """Start weights are a path of whoever trained; their place may hold anything here."""
    bomb = tmp_path / "start.pth"
    bomb.write_bytes(pickle.dumps(_Bomb(tmp_path / "mark")))
    recipe = compose_recipe("source", "smoke", overrides=[f"network.weights={bomb}"])
    network = build_network(recipe.network.name, 19, **recipe.network.options)
    content: dict[str, Any] = {"step": 3, "network": network.state_dict(), "recipe": recipe.model_dump(mode="json")}
    save_checkpoint(tmp_path / "last.pt", content)
    found, _, step = trained_network(tmp_path / "last.pt", torch.device("cpu"))
    assert (found.network.weights, step) == (str(bomb), 3)
    content["recipe"]["network"]["options"]["weights"] = str(bomb)  # as if build_network took it from there
    with pytest.raises(ValueError, match="options of small must be among"):
        Recipe.model_validate(content["recipe"])
    content["recipe"] |= {"network": {"name": "small"}, "space": str(bomb)}
    with pytest.raises(ValueError, match="must be the content of a class file or the name of one"):
        Recipe.model_validate(content["recipe"])
    assert not (tmp_path / "mark").exists()


def png(width: int, height: int, *, color: int = 2, more: bytes = b"") -> bytes:
    """A header without its pixels; color 0 is gray, 2 is RGB, 3 is a palette."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))
    text = chunk(b"zTXt", more) if more else b""
    return b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


HOSTILE_IMAGES = {
    "far too large": png(100_000, 100_000),
    "too large": png(10_000, 10_000),
    "gray, too large": png(10_000, 10_000, color=0),
    "palette, too large": png(10_000, 10_000, color=3),
    "text that unpacks to 50 MB": png(8, 8, more=b"a\0\0" + zlib.compress(bytes(50_000_000))),
    "a program for a printer": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n",
    "bitmap": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 8, 8, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("what", HOSTILE_IMAGES)
def test_images_are_bounded_before_they_are_decoded(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*args: object) -> None:
        raise AssertionError("pixels were asked for")

    file = tmp_path / "00001.png"
    file.write_bytes(HOSTILE_IMAGES[what])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    monkeypatch.setattr("cv2.imdecode", decoded)
    for read in (read_image, read_id_map, read_first_channel, image_size):
        with pytest.raises(DatasetError, match=r"00001\.png: expected (at most 67108864 pixels|a PNG, JPEG)"):
            read(file)


@pytest.mark.parametrize("what", ["far too large", "too large", "a program for a printer"])
def test_every_folder_of_images_is_read_with_the_bound(tmp_path: Path, what: str) -> None:
    assert MAX_PIXELS == 67108864
    for folder in ("images", "RGB", "leftImg8bit/train/a", "transferred", "labeled"):
        (tmp_path / folder).mkdir(parents=True)
    names = {
        "gta5": "images/00001.png",
        "synthia": "RGB/00001.png",
        "cityscapes": "leftImg8bit/train/a/1_leftImg8bit.png",
    }
    for layout, name in names.items():
        (tmp_path / name).write_bytes(HOSTILE_IMAGES[what])
        with pytest.raises(DatasetError, match="expected"):
            open_dataset(layout, tmp_path, labels=False)[0]
    (tmp_path / "images" / "00001.png").write_bytes(_small_image())
    (tmp_path / "transferred" / "00001.png").write_bytes(HOSTILE_IMAGES[what])
    (tmp_path / "labeled" / "00001.png").write_bytes(HOSTILE_IMAGES[what])
    dataset = open_dataset("gta5", tmp_path, labels=False)
    assert dataset[0].image.shape == (3, 8, 8)
    for others in (TransferredImages(dataset, tmp_path / "transferred"), PseudoLabeled(dataset, tmp_path / "labeled")):
        with pytest.raises(DatasetError, match=r"00001\.png: expected"):
            others[0]


def _small_image() -> bytes:
    import cv2

    return cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize("line", ["../00001.png", "images/../../00001.png", "/etc/passwd", "C:\\00001.png"])
def test_a_list_opens_nothing_outside_the_data_folder(tmp_path: Path, line: str) -> None:
    (tmp_path / "gta5" / "images").mkdir(parents=True)
    (tmp_path / "gta5" / "images" / "00001.png").write_bytes(_small_image())
    (tmp_path / "00001.png").write_bytes(_small_image())
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(DatasetError, match=r"list\.txt, line 1, .*expected a path relative to"):
        open_dataset("gta5", tmp_path / "gta5", labels=False, listed=tmp_path / "list.txt")


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None, **options: bool) -> bytes:
    """An array as numpy writes it; its header may claim another shape."""
    buffer = io.BytesIO()
    if shape is None:
        np.save(buffer, array, **options)
    else:
        described = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, described)
        buffer.write(array.tobytes())
    return buffer.getvalue()


def test_previews_of_others_are_bounded_and_damaged_ones_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sim" / "seed0" / "previews"
    folder.mkdir(parents=True)
    labels, image = npy(np.zeros((4, 6), np.uint8)), npy(np.zeros((4, 6, 3), np.uint8))
    whole = npz(image=image, labels=labels, prediction=labels)
    bomb = npy(np.array([_Bomb(tmp_path / "mark")], dtype=object), allow_pickle=True)
    by_columns = npy(np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(4, 6)))
    hostile = {
        "0": whole,
        "1": npz(image=npy(np.zeros(9, np.uint8), (10**6, 10**6, 3)), labels=labels, prediction=labels),
        "2": npz(image=image, labels=bomb, prediction=labels),
        "3": npz(image=image, labels=npy(np.zeros((4, 7), np.uint8)), prediction=labels),
        "4": npz(image=labels, labels=labels, prediction=labels),
        "5": npz(image=image, labels=npy(np.zeros((4, 6))), prediction=labels),
        "6": npz(image=image, labels=labels),
        "7": whole[: len(whole) // 2],
        "8": whole[:60] + bytes(20) + whole[80:],
        "9": npz(image=image, labels=npy(np.zeros(3, np.uint8), (4, 6)), prediction=labels),
        "10": npz(image=image, labels=by_columns, prediction=by_columns),
    }
    for name, content in hostile.items():
        (folder / f"{name}.npz").write_bytes(content)
    found = read_previews(read_run(folder.parent, recipe="sim", seed=0))
    assert list(found) == ["0", "10"]
    assert np.array_equal(found["10"].labels, np.arange(24).reshape(4, 6))
    assert not (tmp_path / "mark").exists()
    monkeypatch.setattr("examples.gta5_to_cityscapes.report.images.MAX_PIXELS", 23)  # one less than they have
    assert read_previews(read_run(folder.parent, recipe="sim", seed=0)) == {}


def test_json_that_is_nested_without_end_is_damage(tmp_path: Path) -> None:
    for name in ("recipe.json", "result.json", "metrics.jsonl"):
        (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(DamagedFileError, match="could not read it"):
        read_json(tmp_path / "recipe.json")
    run = read_run(tmp_path, recipe="aa", seed=0)
    assert len(run.problems) == 3
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "aa"}))
    assert read_json(tmp_path / "recipe.json") == {"name": "aa"}
