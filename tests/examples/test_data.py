"""Readers: published layouts, their ids, geometry of resizing, and errors that name the file."""

import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from examples.gta5_to_cityscapes.data import (
    DatasetError,
    describe,
    image_files,
    mismatched_pairs,
    open_dataset,
    read_classes,
)
from examples.gta5_to_cityscapes.data.image_files import nearest_positions, resize_ids
from stuffinstance import CITYSCAPES, SYNTHIA_16

HEIGHT, WIDTH = 12, 20
SHARED = Path(os.environ.get("STUFFINSTANCE_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
REAL = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the street images kept beside the repository")

# The train ids of Cityscapes as its authors print them: label id -> train id.
TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


def save_image(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_ids(path: Path, ids: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8))
    if palette:
        image.putpalette([(37 * i + 11) % 256 for i in range(768)])
    image.save(path)
    return path


def save_synthia(path: Path, classes: np.ndarray, instances: np.ndarray | None = None) -> Path:
    """16-bit color: class, instance, 0; OpenCV wants blue first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    second = np.full_like(classes, 4000) if instances is None else instances
    stored = np.stack([np.zeros_like(classes), second, classes], -1).astype(np.uint16)
    assert cv2.imwrite(str(path), stored)
    return path


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def ramp(count: int) -> np.ndarray:
    """Every id below ``count`` somewhere in the image."""
    return (np.arange(HEIGHT * WIDTH) % count).reshape(HEIGHT, WIDTH).astype(np.uint8)


def gta5(root: Path, ids: np.ndarray | None = None, name: str = "00001", palette: bool = True) -> Path:
    save_image(root / "images" / f"{name}.png")
    save_ids(root / "labels" / f"{name}.png", ramp(34) if ids is None else ids, palette)
    return root


def cityscapes(root: Path, split: str = "train", city: str = "aachen", name: str = "aachen_0_1") -> Path:
    save_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
    save_ids(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", ramp(34))
    return root


@pytest.mark.parametrize("palette", [True, False])
def test_gta5_ids_become_train_ids(tmp_path: Path, palette: bool) -> None:
    sample = open_dataset("gta5", gta5(tmp_path, palette=palette))[0]
    expected = torch.tensor([TRAIN_IDS.get(int(i), 255) for i in ramp(34).ravel()], dtype=torch.uint8)
    assert torch.equal(sample.labels.flatten(), expected)
    assert sample.name == "00001"
    assert sample.image.dtype == torch.uint8
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    stored = np.asarray(Image.open(tmp_path / "images" / "00001.png"))
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), stored)


# Ids of SYNTHIA in the order of SYNTHIA_16, from the data set's own description.
SYNTHIA_LABELS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11]


def test_synthia_reads_the_class_of_16_bit_color(tmp_path: Path) -> None:
    raw = ramp(23).astype(np.uint16)
    save_image(tmp_path / "RGB" / "0000000.png")
    save_synthia(tmp_path / "GT" / "LABELS" / "0000000.png", raw)
    dataset = open_dataset("synthia", tmp_path)
    classes = {label: number for number, label in enumerate(SYNTHIA_LABELS)}
    expected = torch.tensor([classes.get(int(i), 255) for i in raw.ravel()], dtype=torch.uint8)
    assert torch.equal(dataset[0].labels.flatten(), expected)
    assert dataset.space == SYNTHIA_16


def test_synthia_ids_beyond_a_byte_are_ignored_not_wrapped(tmp_path: Path) -> None:
    save_image(tmp_path / "RGB" / "a.png")
    save_synthia(tmp_path / "GT" / "LABELS" / "a.png", np.full((HEIGHT, WIDTH), 256 + 3, dtype=np.uint16))
    dataset = open_dataset("synthia", tmp_path)
    assert dataset[0].labels.unique().tolist() == [255]
    assert dataset.unknown_ids == {259: HEIGHT * WIDTH}


def test_cityscapes_is_read_in_the_classes_of_synthia(tmp_path: Path) -> None:
    table = read_classes("synthia16").table("target")
    labels = open_dataset("cityscapes", cityscapes(tmp_path), table=table)[0].labels
    for raw, train_id in TRAIN_IDS.items():
        name = CITYSCAPES.names[train_id]
        expected = SYNTHIA_16.names.index(name) if name in SYNTHIA_16.names else 255
        assert set(labels[torch.from_numpy(ramp(34) == raw)].tolist()) == {expected}


def test_listing_is_sorted_over_cities_and_splits_are_apart(tmp_path: Path) -> None:
    for city, name in [("zurich", "zurich_0_1"), ("aachen", "aachen_0_2"), ("aachen", "aachen_0_1")]:
        cityscapes(tmp_path, city=city, name=name)
    cityscapes(tmp_path, split="val", city="lindau", name="lindau_0_1")
    assert open_dataset("cityscapes", tmp_path).names == ["aachen_0_1", "aachen_0_2", "zurich_0_1"]
    assert open_dataset("cityscapes", tmp_path, split="val").names == ["lindau_0_1"]


def test_target_labels_are_neither_needed_nor_opened(tmp_path: Path) -> None:
    save_image(tmp_path / "leftImg8bit/train/aachen/aachen_0_1_leftImg8bit.png")
    sample = open_dataset("cityscapes", tmp_path, labels=False, size=(6, 10))[0]
    assert sample.labels.shape == (6, 10)
    assert sample.labels.unique().tolist() == [255]
    with pytest.raises(DatasetError, match=r"gtFine.*expected a folder of the cityscapes layout"):
        open_dataset("cityscapes", tmp_path)
    cityscapes(tmp_path)
    (tmp_path / "gtFine/train/aachen/aachen_0_1_gtFine_labelIds.png").write_bytes(b"not an image")
    assert open_dataset("cityscapes", tmp_path, labels=False)[0].labels.unique().tolist() == [255]


def test_unknown_ids_are_ignored_counted_and_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = np.full((HEIGHT, WIDTH), 7, dtype=np.uint8)
    ids[0, :5] = 77
    gta5(tmp_path, ids)
    gta5(tmp_path, ids, name="00002")
    dataset = open_dataset("gta5", tmp_path)
    with caplog.at_level(logging.WARNING):
        labels = dataset[0].labels
        dataset[1]
    assert labels[0, :5].tolist() == [255] * 5
    assert labels[0, 5:].unique().tolist() == [0]
    assert dataset.unknown_ids == {77: 10}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "5 pixels have label ids without a row in the class file: 77" in caplog.text
    assert "00001.png" in caplog.text


def test_labels_stay_under_their_pixels_when_both_are_resized(tmp_path: Path) -> None:
    """A label border in the middle of the image stays in the middle: the two resizes share pixel centers."""
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[:, 30:] = 255
    save_image(tmp_path / "images/a.png", pixels)
    save_ids(tmp_path / "labels/a.png", np.where(pixels[..., 0] > 0, 7, 8))
    sample = open_dataset("gta5", tmp_path, size=(20, 31))[0]
    assert torch.equal(sample.labels == 0, sample.image[0] > 127)


def test_nearest_resize_is_exact() -> None:
    """The center of pixel i of n lies at (2i + 1) / 2n of the stored extent."""
    from fractions import Fraction
    from math import floor

    for stored, wanted in [(1, 7), (7, 1), (5, 3), (1914, 640), (1052, 360), (2048, 1024), (9, 9), (3, 1000)]:
        expected = [floor(Fraction(2 * i + 1, 2 * wanted) * stored) for i in range(wanted)]
        assert nearest_positions(stored, wanted).tolist() == expected
    ids = np.random.default_rng(0).integers(0, 34, (37, 53), dtype=np.uint8)
    by_pillow = Image.fromarray(ids).resize((31, 19), Image.Resampling.NEAREST)
    assert np.array_equal(resize_ids(ids, (19, 31)), np.asarray(by_pillow))
    assert np.array_equal(resize_ids(ids, (37, 53)), ids)


def test_images_are_antialiased_when_reduced(tmp_path: Path) -> None:
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    save_image(tmp_path / "leftImg8bit/train/c/c_1_leftImg8bit.png", board)
    image = open_dataset("cityscapes", tmp_path, labels=False, size=(16, 16))[0].image
    inner = image[:, 2:-2, 2:-2].float()
    assert (inner - 127.5).abs().max() < 8


# --- what is wrong with a data set is said with the file, what was expected, and what to do ---


def test_wrong_folder_shows_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DatasetError, match=r"images: expected .*gta5 layout.*holds \['photos'\]"):
        open_dataset("gta5", tmp_path)
    with pytest.raises(DatasetError, match=r"does not exist either"):
        open_dataset("synthia", tmp_path / "nowhere")


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="expected images named"):
        open_dataset("gta5", tmp_path)


def test_missing_label_names_both_files(tmp_path: Path) -> None:
    gta5(tmp_path)
    save_image(tmp_path / "images" / "00002.png")
    with pytest.raises(DatasetError, match=r"00002\.png: expected its label map at .*labels/00002\.png.*1 of 2"):
        open_dataset("gta5", tmp_path)
    for number in range(3, 8):
        save_image(tmp_path / "images" / f"0000{number}.png")
    with pytest.raises(DatasetError, match=r"6 of 7 images have none: also 00003, 00004, 00005, 00006, \.\.\.\)"):
        open_dataset("gta5", tmp_path)


@pytest.mark.parametrize("file", ["images/00001.png", "labels/00001.png", "RGB/a.jpg", "GT/LABELS/a.png"])
@pytest.mark.parametrize("keep", [0.97, 0.5, 0.1, 0.0])
def test_truncated_files_are_named(tmp_path: Path, file: str, keep: float) -> None:
    """Also those that OpenCV reads, which would fill up the rest in silence."""
    layout = "gta5" if "00001" in file else "synthia"
    gta5(tmp_path)
    save_image(tmp_path / "RGB/a.jpg")
    save_synthia(tmp_path / "GT/LABELS/a.png", ramp(23).astype(np.uint16))
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: int(keep * len(content)) if keep < 0.9 else len(content) - 25])
    with pytest.raises(DatasetError, match=rf"{file}: expected .*image.*copy it again"):
        open_dataset(layout, tmp_path)[0]  # type: ignore[arg-type]


def test_size_mismatch_names_both_sizes(tmp_path: Path) -> None:
    gta5(tmp_path, ids=np.zeros((HEIGHT, WIDTH + 1)))
    dataset = open_dataset("gta5", tmp_path, size=(6, 10))
    with pytest.raises(DatasetError, match=r"labels/00001\.png: expected the size of .*20x12, got 21x12"):
        dataset[0]
    assert mismatched_pairs(dataset) == ["00001"]


def test_color_labels_are_rejected(tmp_path: Path) -> None:
    save_image(tmp_path / "images/a.png")
    save_image(tmp_path / "labels/a.png")
    with pytest.raises(DatasetError, match=r"labels/a\.png: expected label ids .*mode 'RGB'"):
        open_dataset("gta5", tmp_path)[0]


def test_size_is_bounded_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that claims 60000×60000 pixels is rejected without its pixels."""
    gta5(tmp_path)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (tmp_path / "images/00001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b""))
    with pytest.raises(DatasetError, match=r"00001\.png: expected at most"):
        open_dataset("gta5", tmp_path)[0]
    monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
    with pytest.raises(DatasetError, match=rf"at most 100 pixels, its header says {WIDTH}x{HEIGHT}"):
        open_dataset("gta5", gta5(tmp_path / "other"))[0]


def test_two_images_of_one_name_are_an_error(tmp_path: Path) -> None:
    gta5(tmp_path)
    save_image(tmp_path / "images/00001.jpg")
    with pytest.raises(DatasetError, match="Remove one of them"):
        open_dataset("gta5", tmp_path)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    gta5(tmp_path)
    with pytest.raises(ValueError, match="layout must be one of"):
        open_dataset("kitti", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split must be 'train'"):
        open_dataset("gta5", tmp_path, split="val")
    with pytest.raises(ValueError, match="size must be"):
        open_dataset("gta5", tmp_path, size=(0, 10))
    with pytest.raises(ValueError, match=r"together at most 67108864 pixels, got \(8192, 8193\)"):
        open_dataset("gta5", tmp_path, size=(8192, 8193))


def test_describe_counts_classes_sizes_and_unknown_ids(tmp_path: Path) -> None:
    ids = np.full((HEIGHT, WIDTH), 7)
    ids[:2] = 26
    ids[2, :3] = 99
    for index in range(6):
        gta5(tmp_path, ids, name=f"{index:05d}")
    dataset = open_dataset("gta5", tmp_path)
    summary = describe(dataset, sample=3)
    assert summary.sampled == 3
    assert summary.sizes == {(HEIGHT, WIDTH): 3}
    assert summary.pixels["car"] == 3 * 2 * WIDTH
    assert summary.pixels["road"] == 3 * ((HEIGHT - 2) * WIDTH - 3)
    assert summary.pixels["train"] == 0
    assert summary.unknown_ids == {99: 9}
    assert dataset.unknown_ids == {}
    assert summary.share("car") == pytest.approx(40 / 237)
    with pytest.raises(ValueError, match="sample must be at least 1"):
        describe(dataset, sample=0)


@REAL
@pytest.mark.parametrize(
    ("layout", "folder", "split", "count"),
    [
        ("cityscapes", "camvid", "train", 367),
        ("cityscapes", "camvid", "val", 163),
        ("cityscapes", "cityscapes_sample", "train", 2),
        ("gta5", "carla_gta5_layout", "train", 10),
    ],
)
def test_real_images(layout: str, folder: str, split: str, count: int) -> None:
    dataset = open_dataset(layout, SHARED / folder, split=split, size=(90, 180))  # type: ignore[arg-type]
    summary = describe(dataset, sample=4)
    assert len(dataset) == count
    assert summary.unknown_ids == {}
    assert sum(summary.pixels.values()) > 0.7 * summary.sampled * 90 * 180
    assert summary.share("road") > 0.1
    assert summary.share("building") > 0.05
    assert mismatched_pairs(dataset) == []
