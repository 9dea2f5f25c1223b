"""The generated city: layouts, determinism, content, and a gap that channel statistics do not explain."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

cv2 = pytest.importorskip("cv2")

from skimage.measure import label as connected_regions  # noqa: E402

from examples.generated_city import CAMERA_CITY, GAME_CITY, DomainStatistics, generate_city  # noqa: E402
from examples.generated_city.buildings import Building  # noqa: E402
from examples.generated_city.camera import Camera  # noqa: E402
from examples.generated_city.canvas import Canvas  # noqa: E402
from examples.generated_city.gap import separability  # noqa: E402
from examples.generated_city.label_ids import BICYCLE, CAR, COLORS, PERSON, SYNTHIA_IDS, TRAINING_IDS, VOID_IDS  # noqa: E402
from examples.generated_city.lighting import sample_light  # noqa: E402
from examples.generated_city.painter import Painter  # noqa: E402
from examples.generated_city.people import Person  # noqa: E402
from examples.generated_city.rendering import render_scene  # noqa: E402
from examples.generated_city.roadside import Tree  # noqa: E402
from examples.generated_city.scene import Scene, sample_scene  # noqa: E402
from examples.generated_city.vehicles import Vehicle  # noqa: E402
from examples.gta5_to_cityscapes.data import open_dataset, read_classes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = {"game": GAME_CITY, "camera": CAMERA_CITY}
SCENES, SIZE = 16, (160, 80)
Images = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def images() -> dict[str, Images]:
    return {
        name: [render_scene((0, stats.seed_key, 0, k), stats, SIZE) for k in range(SCENES)]
        for name, stats in DOMAINS.items()
    }


def scenes(stats: DomainStatistics, count: int = 60) -> list[Scene]:
    return [sample_scene(np.random.default_rng([5, k]), stats, SIZE) for k in range(count)]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three source, three training and a validation image; to look at, not to change."""
    out = tmp_path_factory.mktemp("small") / "city"
    small_city(out)
    return out


def small_city(out: Path, **changes: object) -> None:
    settings: dict[str, object] = {"source_images": 3, "target_train": 3, "target_val": 1, "size": (64, 48), "seed": 3}
    generate_city(out, **{**settings, **changes})  # type: ignore[arg-type]


def test_the_source_in_synthias_layout_is_the_same_scenes_in_other_files(city: Path, tmp_path: Path) -> None:
    """Both layouts fit in one city."""
    before = digests(city)
    shutil.copytree(city, tmp_path / "city")
    small_city(tmp_path / "city", source_layout="synthia")
    after = digests(tmp_path / "city")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 6
    root = tmp_path / "city" / "synthia"
    names = {f"{kind}/000000{k}.png" for kind in ("RGB", "GT/LABELS") for k in (0, 1, 2)}
    assert {str(path.relative_to(root)) for path in root.rglob("*.png")} == names
    drawn = cv2.imread(str(root / "GT" / "LABELS" / "0000000.png"), cv2.IMREAD_UNCHANGED)
    assert (drawn.dtype, drawn.shape) == (np.uint16, (48, 64, 3))
    assert set(SYNTHIA_IDS.values()) >= set(np.unique(drawn[..., 2])) - {0}  # red is the first channel
    assert not drawn[..., :2].any()
    classes = read_classes("synthia16")
    gta5 = open_dataset("gta5", city / "gta5", table=classes.table("target"))  # whose ids are those of Cityscapes
    synthia = open_dataset("synthia", root, table=classes.table("source"))
    assert len(gta5) == len(synthia) == 3
    for one, other in zip(gta5, synthia, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.labels, other.labels)
        assert one.labels.unique().numel() > 3


def test_the_numbers_of_synthia_are_those_that_its_reader_knows() -> None:
    classes = read_classes("synthia16")
    expected = {classes.target[name][0]: classes.source[name][0] for name in classes.names}
    assert expected.items() <= SYNTHIA_IDS.items()
    others = {number for drawn, number in SYNTHIA_IDS.items() if drawn not in expected}
    assert others <= set(classes.source["ignore"])


def test_files_lie_as_the_published_data_sets_have_them(city: Path) -> None:
    target = "cityscapes/{}/{}/{}/{}_{}_000000_{}.png"
    expected = {f"gta5/{kind}/0000{k}.png" for kind in ("images", "labels") for k in (1, 2, 3)} | {"city.json"}
    for split, town, number in (
        ("train", "altstadt", "000000"),
        ("train", "neustadt", "000000"),
        ("train", "hafen", "000000"),
        ("val", "altstadt", "000001"),
    ):
        expected.add(target.format("leftImg8bit", split, town, town, number, "leftImg8bit"))
        expected.add(target.format("gtFine", split, town, town, number, "gtFine_labelIds"))
    assert set(digests(city)) == expected
    with Image.open(city / "gta5/labels/00001.png") as labels:
        assert labels.mode == "P"
        assert labels.size == (64, 48)
        flat = labels.getpalette() or []
        assert tuple(flat[3 * CAR : 3 * CAR + 3]) == COLORS[CAR]
    train = city / "cityscapes"
    with Image.open(train / "gtFine/train/hafen/hafen_000000_000000_gtFine_labelIds.png") as labels:
        assert labels.mode == "L"
    with Image.open(train / "leftImg8bit/train/hafen/hafen_000000_000000_leftImg8bit.png") as image:
        assert image.mode == "RGB"
        assert image.size == (64, 48)


def test_same_seed_gives_same_bytes_for_any_number_of_workers(city: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    small_city(tmp_path / "two", workers=2, progress=seen.append)
    assert seen == list(range(8))
    small_city(tmp_path / "other", seed=4)
    one, other = digests(city), digests(tmp_path / "other")
    assert digests(tmp_path / "two") == one
    assert all(one[name] != other[name] for name in one if "images" in name or "leftImg8bit" in name)
    images = [digest for name, digest in one.items() if "leftImg8bit" in name or "images" in name]
    assert len(set(images)) == len(images) == 7  # training and validation share no scene


def test_what_is_missing_is_added_whatever_else_there_is(city: Path, tmp_path: Path) -> None:
    """A scene does not depend on how many are made."""
    small_city(tmp_path / "city", source_images=1, target_train=0, target_val=0)
    kept = tmp_path / "city/gta5/images/00001.png"
    stamp = kept.stat().st_mtime_ns
    small_city(tmp_path / "city")
    (tmp_path / "city/gta5/images/00002.png").unlink()
    small_city(tmp_path / "city")
    assert digests(tmp_path / "city") == digests(city)
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("change", [{"seed": 9}, {"size": (96, 48)}])
def test_other_settings_are_rejected_in_the_same_folder(city: Path, change: dict[str, object]) -> None:
    before = digests(city)
    with pytest.raises(FileExistsError, match="holds a city made with"):
        small_city(city, **change)
    assert digests(city) == before


def test_a_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a generated city"):
        small_city(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (8, 48)}, "width, height"),
        ({"workers": 0}, "workers"),
        ({"target_val": -1}, "target_val"),
        ({"seed": -1}, "seed"),
        ({"source_layout": "camvid"}, "source_layout must be one of gta5, synthia, got 'camvid'"),
    ],
)
def test_impossible_numbers_are_named_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_city(tmp_path / "city", **change)
    assert not (tmp_path / "city").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_leaves_whole_pairs_and_is_taken_up_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.generated_city", "--out", str(tmp_path / "city"), "--source", "8"]
    command += ["--train", "0", "--val", "0", "--size", "160x96", "--seed", "3"]
    images = tmp_path / "city/gta5/images"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < deadline and len(list(images.glob("*.png"))) < 3:
            time.sleep(0.005)
        os.kill(run.pid, signal.SIGKILL)
    finished = sorted(images.glob("*.png"))
    assert len(finished) >= 3
    for path in finished:
        np.asarray(Image.open(path))  # raises on a truncated file
        np.asarray(Image.open(tmp_path / "city/gta5/labels" / path.name))
    settings = {"source_images": 8, "target_train": 0, "target_val": 0, "size": (160, 96), "seed": 3}
    for folder in ("city", "fresh"):
        generate_city(tmp_path / folder, **settings)  # type: ignore[arg-type]
    assert digests(tmp_path / "city") == digests(tmp_path / "fresh")
    assert json.loads((tmp_path / "city/city.json").read_text())["seed"] == 3


def test_all_nineteen_classes_and_some_void_occur_and_no_other_id(images: dict[str, Images]) -> None:
    for name, domain in images.items():
        found = set(np.unique(np.stack([ids for _, ids in domain])).tolist())
        assert found >= set(TRAINING_IDS), f"{name} lacks {set(TRAINING_IDS) - found}"
        assert found & VOID_IDS, f"{name} never has a pixel to ignore"
        assert found <= set(TRAINING_IDS) | VOID_IDS


def test_things_come_in_several_and_in_a_wide_range_of_sizes(images: dict[str, Images]) -> None:
    for name, domain in images.items():
        areas: list[int] = []
        several = 0
        for _, ids in domain:
            regions = connected_regions(ids == CAR, connectivity=2)
            sizes = np.bincount(regions.ravel())[1:]
            several += len(sizes) > 1
            areas += sizes.tolist()
        assert several > SCENES / 4, f"{name}: several car regions in {several} images only"
        assert np.percentile(areas, 90) > 25 * np.percentile(areas, 10), name
        for thing in (PERSON, BICYCLE):
            most = max(int(connected_regions(ids == thing, connectivity=2).max()) for _, ids in domain)
            assert most >= 2, (name, thing)


def silhouettes(scene: Scene) -> list[NDArray[np.bool_]]:
    """Visible area of every car as if it stood alone."""
    masks = []
    for item in scene.objects:
        if isinstance(item, Vehicle) and item.kind not in ("truck", "bus", "tram"):
            canvas = Canvas(scene.camera.width, scene.camera.height)
            light = sample_light(np.random.default_rng(0), "game")
            item.paint(Painter(canvas, scene.camera, light, "game"))
            if (canvas.ids == CAR).sum() > 20:
                masks.append(canvas.ids == CAR)
    return masks


def test_some_cars_touch_and_some_stand_apart() -> None:
    for stats in DOMAINS.values():
        touching = apart = 0
        for scene in scenes(stats, 4):
            masks = silhouettes(scene)
            for k, mask in enumerate(masks):
                grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
                neighbors = sum(bool((grown & other).any()) for j, other in enumerate(masks) if j != k)
                touching += neighbors > 0
                apart += neighbors == 0
        assert touching >= 4, stats.name
        assert apart >= 1, stats.name


def test_object_statistics_differ_between_the_cities() -> None:
    game, camera = scenes(GAME_CITY), scenes(CAMERA_CITY)

    def count(of: list[Scene], kind: type) -> float:
        return float(np.mean([sum(isinstance(item, kind) for item in scene.objects) for scene in of]))

    def parked_hatch(of: list[Scene]) -> float:
        kinds = [item.kind for scene in of for item in scene.objects if isinstance(item, Vehicle)]
        return kinds.count("hatch") / len(kinds)

    assert count(camera, Vehicle) > 1.15 * count(game, Vehicle)
    assert count(camera, Tree) > 1.1 * count(game, Tree)
    assert parked_hatch(camera) > 1.2 * parked_hatch(game)
    assert np.std([s.camera.eye for s in game]) > 3 * np.std([s.camera.eye for s in camera])
    assert np.std([s.street.half_width for s in game]) > 1.5 * np.std([s.street.half_width for s in camera])
    floors = [
        np.std([item.floors for scene in of for item in scene.objects if isinstance(item, Building)])
        for of in (game, camera)
    ]
    assert floors[0] > 1.2 * floors[1]
    assert count(game, Person) > 1


def test_matching_channel_statistics_does_not_close_the_gap(images: dict[str, Images]) -> None:
    accuracy = separability(*([image for image, _ in images[name]] for name in ("game", "camera")))
    assert accuracy["channel statistics, channels matched"] < 0.7, "the matching itself failed"
    assert accuracy["local statistics, channels matched"] > 0.9, accuracy


def test_the_separability_measure_sees_no_gap_without_a_gap(images: dict[str, Images]) -> None:
    same = [image for image, _ in images["game"]]
    assert separability(same[::2], same[1::2])["local statistics, as rendered"] < 0.85


def test_the_camera_projects_as_a_pinhole_does() -> None:
    camera = Camera(width=200, height=100, focal=100.0, horizon=40.0, eye=1.5, yaw=0.0)
    view = camera.view(np.array([[2.0, 0.0, 10.0], [0.0, 1.5, 50.0]]))
    np.testing.assert_allclose(camera.pixels(view), [[120.0, 55.0], [100.0, 40.0]])
    x, z, depth = camera.ground(50, 60, 1)
    np.testing.assert_allclose(depth[4], 1.5 * 100 / 14.5, rtol=1e-5)  # row 54: its middle is 14.5 below the horizon
    np.testing.assert_allclose(x[4, 100], 0.5 * z[4, 100] / 100, rtol=1e-5)
    coarse = camera.ground(50, 60, 2)[2]
    np.testing.assert_allclose(coarse[2], 1.5 * 100 / 15, rtol=1e-5)
    assert camera.polygon(np.array([[0.0, 0, -1], [1.0, 0, -1], [1.0, 0, -2]])) is None
    cut = camera.polygon(np.array([[-1.0, 0, -5], [1.0, 0, -5], [1.0, 0, 5], [-1.0, 0, 5]]))
    assert cut is not None
    assert np.isfinite(cut[0]).all()


def test_image_and_labels_agree_where_a_car_stands() -> None:
    scene = scenes(GAME_CITY, 1)[0]
    light = sample_light(np.random.default_rng(0), "game")
    canvas = Canvas(scene.camera.width, scene.camera.height)
    car = Vehicle("hatch", 0.0, 9.0, 0.2, (200.0, 20.0, 20.0), 1)
    straight = Camera(scene.camera.width, scene.camera.height, 300.0, 90.0, 1.4, 0.0)
    car.paint(Painter(canvas, straight, light, "game"))
    painted, labeled = canvas.rgb.any(axis=2), canvas.ids == CAR
    assert labeled.sum() > 500
    assert (painted == labeled).mean() > 0.995
    assert connected_regions(labeled).max() == 1, "a car must be one region"
    rows, columns = np.nonzero(labeled)
    assert 0.5 < np.ptp(rows) / (1.48 * 300 / 7.5) < 1.3  # about a car's height at that distance
    assert np.ptp(columns) > np.ptp(rows)
