"""Readers do not depend on how a file is stored: orientation, bit depth, hidden files, Unicode forms."""

from __future__ import annotations

import io
import shutil
import struct
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from examples.gta5_to_cityscapes.data import (
    DatasetError,
    describe,
    mismatched_pairs,
    open_dataset,
    read_id_map,
    read_image,
    unreadable_files,
)
from examples.gta5_to_cityscapes.data.image_files import first_channel_size, id_map_size, image_size, read_first_channel
from examples.gta5_to_cityscapes.data.style_transfer import TransferredImages
from examples.gta5_to_cityscapes.data.training_data import Folders
from examples.translation.applying import _claim
from examples.translation.comparing import spread
from examples.translation.images import StepImages
from examples.translation.networks import Generator
from examples.translation.settings import Settings

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "köln") for form in ("NFC", "NFD"))


def scene(height: int = 16, width: int = 32) -> np.ndarray:
    """An image (H, W, 3) that is another one after every turn, smooth enough for JPEG."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows > height // 2) * 200], -1).astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def behind_pixels(png: bytes, kind: bytes, content: bytes) -> bytes:
    end = png.rindex(b"IEND") - 4
    return png[:end] + chunk(kind, content) + png[end:]


def save_turned(image: Image.Image, path: Path, orientation: int, where: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = io.BytesIO()
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    if where == "jpg":
        image.save(stored, "JPEG", quality=95, exif=exif(orientation))
    elif where == "jpg, XMP":
        image.save(stored, "JPEG", quality=95, xmp=xmp)
    elif where == "png":
        image.save(stored, "PNG", exif=exif(orientation))
    else:
        image.save(stored, "PNG")
        content = exif(orientation).removeprefix(b"Exif\0\0")
        text = b"XML:com.adobe.xmp" + bytes(5) + xmp
        kind, content = (b"eXIf", content) if where == "png, behind its pixels" else (b"iTXt", text)
        stored = io.BytesIO(behind_pixels(stored.getvalue(), kind, content))
    path.write_bytes(stored.getvalue())


WHERE = ["jpg", "jpg, XMP", "png", "png, behind its pixels", "png, XMP behind its pixels"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_read_as_shown(tmp_path: Path, orientation: int, where: str) -> None:
    path = tmp_path / f"images/a.{where[:3]}"
    save_turned(Image.fromarray(scene()), path, orientation, where)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    pixels, size = read_image(path)
    np.testing.assert_array_equal(pixels, shown)
    assert size == image_size(path) == shown.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    dataset = open_dataset("gta5", tmp_path, labels=False)
    np.testing.assert_array_equal(dataset[0].image.permute(1, 2, 0).numpy(), shown)
    assert describe(dataset).sizes == {size: 1}
    small = open_dataset("gta5", tmp_path, labels=False, size=(8, 8))
    expected = Image.fromarray(shown).resize((8, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(small[0].image.permute(1, 2, 0).numpy(), np.asarray(expected))


@pytest.mark.parametrize("where", ["png", "png, behind its pixels"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_maps_are_read_as_shown(tmp_path: Path, orientation: int, where: str) -> None:
    ids = (np.arange(12 * 20) % 34).reshape(12, 20).astype(np.uint8)
    path = tmp_path / "a.png"
    save_turned(Image.fromarray(ids), path, orientation, where)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    for read, size in ((read_id_map, id_map_size), (read_first_channel, first_channel_size)):
        np.testing.assert_array_equal(read(path), shown)
        assert size(path) == shown.shape


def test_label_maps_drawn_on_the_image_as_shown_fit(tmp_path: Path) -> None:
    for name, stored, orientation in (("a", (16, 32), 1), ("b", (32, 16), 6), ("c", (16, 32), 6)):
        save_turned(Image.fromarray(scene(*stored)), tmp_path / f"images/{name}.jpg", orientation, "jpg")
        label_map = Image.new("L", (32, 16), 7)
        (tmp_path / "labels").mkdir(exist_ok=True)
        label_map.save(tmp_path / f"labels/{name}.png")
    dataset = open_dataset("gta5", tmp_path)
    assert mismatched_pairs(dataset) == ["c"]
    assert dataset[0].image.shape == dataset[1].image.shape == (3, 16, 32)
    with pytest.raises(DatasetError, match=r"c\.png: expected the size of .*c\.jpg, 16x32, got 32x16"):
        dataset[2]


def test_images_of_other_steps_are_read_as_shown(tmp_path: Path) -> None:
    for folder in ("gta5/images", "transferred"):
        save_turned(Image.fromarray(scene(48, 96)), tmp_path / folder / "a.jpg", 8, "jpg")
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "transferred/a.jpg")))
    dataset = open_dataset("gta5", tmp_path / "gta5", labels=False)
    transferred = TransferredImages(dataset, tmp_path / "transferred")
    np.testing.assert_array_equal(transferred[0].image.permute(1, 2, 0).numpy(), shown)
    np.testing.assert_array_equal(spread([dataset], 1)[0], shown)
    whole = Settings(size=(96, 48), crop=None, batch=1, width=4, blocks=1)
    drawn = StepImages(dataset, whole, 0).draw(0)[0].mul(255).round().byte()
    assert any(torch.equal(drawn, each) for each in (dataset[0].image, dataset[0].image.flip(2)))


def test_damaged_metadata_turn_nothing(tmp_path: Path) -> None:
    whole = exif(6)
    for k in range(6, len(whole)):
        path = tmp_path / f"{k}.jpg"
        Image.fromarray(scene()).save(path, exif=whole[:k])
        pixels, size = read_image(path)
        assert size == image_size(path) == pixels.shape[:2]
    Image.fromarray(scene()).save(path, exif=b"Exif\0\0not a TIFF file")
    assert read_image(path)[1] == (16, 32)
    tags = Image.Exif()
    tags[0x0112] = 9
    Image.fromarray(scene()).save(path, exif=tags)
    assert read_image(path)[1] == image_size(path) == (16, 32)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(scene()).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path, **({"quality": 100} if mode == "CMYK" else {}))
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read_image(path)[0] - expected).max() <= (40 if mode == "CMYK" else 0)
    assert np.abs(read_image(path)[0] - expected).mean() <= (5 if mode == "CMYK" else 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bits_the_upper_8_are_read(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.png"
    deep = np.random.default_rng(0).integers(0, 2**16, (6, 10, channels), dtype=np.uint16)
    assert cv2.imwrite(str(path), deep)
    upper = (deep >> 8).astype(np.uint8)
    expected = upper.repeat(3, 2) if channels == 1 else upper[..., 2::-1]
    np.testing.assert_array_equal(read_image(path)[0], expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16"])
def test_label_maps_of_another_mode_are_named_from_their_headers(tmp_path: Path, mode: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.fromarray(scene()).save(tmp_path / "images/a.png")
    Image.new(mode, (32, 16)).save(tmp_path / "labels/a.png")
    dataset = open_dataset("gta5", tmp_path)
    with pytest.raises(DatasetError, match=r"labels/a\.png: expected label ids as an 8-bit .*take the label ids"):
        dataset[0]
    assert [each.name for each in unreadable_files(dataset)] == ["a"]


@pytest.mark.parametrize("read", [read_id_map, read_first_channel])
@pytest.mark.parametrize("bits", [2, 4])
def test_gray_label_maps_of_few_bits_are_rejected(tmp_path: Path, bits: int, read) -> None:  # type: ignore[no-untyped-def]
    """Pillow and OpenCV both spread 0..15 over 0..255."""
    header = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(range(bits))) * 2)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DatasetError, match=r"a\.png: expected label ids of at least 8 bits"):
        read(tmp_path / "a.png")


def test_palette_label_maps_of_few_bits_are_ids(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(ids)
    image.putpalette([value for i in range(16) for value in (255 - i, i, 7)])
    image.save(tmp_path / "a.png", bits=4)
    for read in (read_id_map, read_first_channel):
        np.testing.assert_array_equal(read(tmp_path / "a.png"), ids)


def test_animations_are_rejected_and_previews_in_a_jpeg_are_not(tmp_path: Path) -> None:
    first, second = Image.fromarray(scene()), Image.fromarray(scene()[::-1].copy())
    first.save(tmp_path / "a.png", save_all=True, append_images=[second])
    for read in (read_image, read_id_map, read_first_channel, image_size):
        with pytest.raises(DatasetError, match=r"a\.png: expected a single image, it .*holds 2"):
            read(tmp_path / "a.png")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg")[0].astype(int) - scene()).mean() < 10


def without_pixels() -> bytes:
    header = struct.pack(">IIBBBBB", 8, 2, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("content", "said"), [(without_pixels(), "a complete image"), (b"", "the file is empty")])
def test_files_without_an_image_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_image, read_first_channel):
        with pytest.raises(DatasetError, match=rf"a\.png: .*{said}"):
            read(tmp_path / "a.png")


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (1, 1), (7, 8, 9)).save(tmp_path / "images/a.png")
    for size, shape in ((None, (1, 1)), ((4, 6), (4, 6))):
        image = open_dataset("gta5", tmp_path, labels=False, size=size)[0].image
        assert image.shape[1:] == shape
        assert image[2].unique().tolist() == [9]


# --- hidden files and names ---


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", ".Trash-1000", "@eaDir", "__MACOSX", "System Volume Information", "$RECYCLE.BIN"]
)
def test_hidden_folders_are_neither_cities_nor_splits(own: Folders, name: str) -> None:
    names = open_dataset("cityscapes", own.target).names
    for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        hidden = own.target / kind / "train" / name
        hidden.mkdir()
        first = own.target / kind / f"train/tiny/tiny_000000_000019_{ending}.png"
        shutil.copy(first, hidden)
        shutil.copy(first, hidden / f"deleted_000000_000019_{ending}.png")
        (own.target / kind / name).mkdir()
    assert open_dataset("cityscapes", own.target).names == names
    with pytest.raises(DatasetError, match=r"leftImg8bit has train, val\.$"):
        open_dataset("cityscapes", own.target, split="test")


def test_hidden_files_are_neither_images_nor_label_maps_nor_transferred(own: Folders, tmp_path: Path) -> None:
    names = open_dataset("gta5", own.source).names
    transferred = shutil.copytree(own.source / "images", tmp_path / "transferred")
    for folder in (own.source / "images", own.source / "labels", transferred):
        for name in ("._00001.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.PNG"):
            (folder / name).write_bytes(b"not an image")
    dataset = open_dataset("gta5", own.source)
    assert dataset.names == names
    assert unreadable_files(dataset) == []
    assert len(TransferredImages(dataset, transferred)) == len(names)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.DS_Store").touch()
    (tmp_path / "other/photos").mkdir()
    with pytest.raises(DatasetError, match=r"holds \['photos'\]"):
        open_dataset("gta5", tmp_path / "other")


def test_a_folder_with_hidden_files_alone_is_new_to_a_translation(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    _claim(tmp_path, Settings(size=(48, 96), crop=None, width=4, blocks=1), Generator(4, 1), "target")
    assert (tmp_path / "translation.json").is_file()


def test_endings_may_be_upper_case_and_folders_links(own: Folders, tmp_path: Path) -> None:
    whole = open_dataset("gta5", own.source)[0]
    (own.source / "images/00001.png").rename(own.source / "images/00001.PNG")
    (own.source / "labels/00001.png").rename(own.source / "labels/00001.PNG")
    (tmp_path / "linked").mkdir()
    for folder in ("images", "labels"):
        (tmp_path / "linked" / folder).symlink_to(own.source / folder, target_is_directory=True)
    assert torch.equal(open_dataset("gta5", tmp_path / "linked")[0].labels, whole.labels)
    assert len(TransferredImages(open_dataset("gta5", own.source), tmp_path / "linked/images")) == 6
    city = own.target / "leftImg8bit/train/tiny"
    city.rename(tmp_path / "tiny")
    city.symlink_to(tmp_path / "tiny", target_is_directory=True)
    assert len(open_dataset("cityscapes", own.target)) == 4


@pytest.mark.parametrize(("image", "label"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_in_two_unicode_forms_are_one_name(own: Folders, tmp_path: Path, image: str, label: str) -> None:
    (own.source / "images/00001.png").rename(own.source / f"images/{image}.png")
    (own.source / "labels/00001.png").rename(own.source / f"labels/{label}.png")
    dataset = open_dataset("gta5", own.source)
    assert dataset.names[-1] == COMPOSED
    assert dataset[5].name == COMPOSED
    for line in (image, label, f"{label}.png", f"images/{label}.png"):
        (tmp_path / "list.txt").write_text(line, encoding="utf-8")
        assert open_dataset("gta5", own.source, listed=tmp_path / "list.txt").names == [COMPOSED]
    transferred = shutil.copytree(own.source / "images", tmp_path / "transferred")
    (transferred / f"{image}.png").rename(transferred / f"{label}.png")
    assert torch.equal(TransferredImages(dataset, transferred)[5].image, dataset[5].image)


def test_cities_and_images_in_two_unicode_forms_are_pairs(own: Folders, tmp_path: Path) -> None:
    for kind, form, ending in (("leftImg8bit", COMPOSED, "leftImg8bit"), ("gtFine", DECOMPOSED, "gtFine_labelIds")):
        folder = own.target / kind / "val"
        (folder / "tiny").rename(folder / form)
        old = folder / form / f"tiny_000000_000019_{ending}.png"
        old.rename(folder / form / f"{form}_000000_000019_{ending}.png")
    line = f"{DECOMPOSED}/{DECOMPOSED}_000000_000019_leftImg8bit.png"
    (tmp_path / "list.txt").write_text(line, encoding="utf-8")
    chosen = open_dataset("cityscapes", own.target, split="val", listed=tmp_path / "list.txt")
    assert chosen.names == [f"{COMPOSED}_000000_000019"]


@pytest.mark.parametrize(
    ("copied", "said"),
    [
        ({"images": (f"{COMPOSED}.png", f"{DECOMPOSED}.png"), "labels": (f"{COMPOSED}.png",)}, "one image named"),
        ({"images": (f"{COMPOSED}.png",), "labels": (f"{COMPOSED}.png", f"{DECOMPOSED}.png")}, "one label map named"),
        ({"labels": ("00001.PNG",)}, "one label map named '00001'"),
        ({"images": ("a 1.png",), "labels": ("A 1.png",)}, r"'A 1\.png' differs in upper and lower case"),
        (
            {"images": ("a 1.png",), "labels": ("a 1 .png",)},
            r"'a 1 \.png' differs in upper and lower case or in spaces",
        ),
    ],
)
def test_names_that_are_ambiguous_or_missed_are_errors(
    own: Folders, copied: dict[str, tuple[str, ...]], said: str
) -> None:
    for folder, files in copied.items():
        for name in files:
            shutil.copy(own.source / folder / "00001.png", own.source / folder / name)
    with pytest.raises(DatasetError, match=said):
        open_dataset("gta5", own.source)


def test_transferred_images_go_by_the_whole_name(own: Folders, tmp_path: Path) -> None:
    """A name may hold dots, and belongs to one file."""
    transferred = shutil.copytree(own.source / "images", tmp_path / "transferred")
    for folder in (own.source / "images", own.source / "labels", transferred):
        (folder / "00001.png").rename(folder / "a.1.png")
        (folder / "00002.png").rename(folder / "a.2.png")
    dataset = open_dataset("gta5", own.source)
    beside = TransferredImages(dataset, transferred)
    for i in range(6):
        assert torch.equal(beside[i].image, dataset[i].image)
    Image.open(transferred / "00003.png").save(transferred / "00003.jpg")
    with pytest.raises(DatasetError, match="expected one style-transferred image named '00003'"):
        TransferredImages(dataset, transferred)
