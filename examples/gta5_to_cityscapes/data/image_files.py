"""Readers of images and label maps, with one error for every file that cannot be used."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile


class DatasetError(ValueError):
    """A folder, image or label map that does not fit its published layout.

    The message names the file, what was expected, what was found and what to do.
    """


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
UNREAD_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".pgm", ".ppm", ".tga")  # images, but not read
MAX_PIXELS = 2**26  # four times the largest street image in use; a hostile header asks for far more
_FORMATS = (
    "PNG",
    "JPEG",
    "TIFF",
    "WEBP",
)  # by content: for others, Pillow would start programs
_DEEP_MODES = {"I;16", "I"}  # 16-bit gray; Pillow's conversion to RGB would clip it to white
_COLOR_MODES = {"RGB", "RGBA", "L", "LA", "P", "1", "CMYK", *_DEEP_MODES}
_ID_MODES = {"L", "P"}
_PACKED_GRAY = {"1", "L;2", "L;4"}  # Pillow spreads their values over 0..255, which is wrong for ids
# How an orientation tag turns stored pixels. ImageOps.exif_transpose does the same, but writes all metadata again and
# so fails on a damaged tag that has nothing to do with the orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}
# What Pillow raises where a part of a file is not what its format says, found by damaging files at random.
_DAMAGE = (EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error, zlib.error)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings of large images, bounded more strictly here, and of unreadable metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield


def _open(path: Path) -> Image.Image:
    """Read the header only, so that the size is checked before any memory is spent on pixels."""
    try:
        with _without_warnings():
            image = Image.open(path, formats=_FORMATS)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: expected an image, found no file. Check the data set folder.") from error
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path}: expected at most {MAX_PIXELS} pixels, {error}. Replace the file.") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = "the file is empty" if path.is_file() and not path.stat().st_size else error
        raise DatasetError(
            f"{path}: expected a PNG, JPEG, TIFF or WebP image, could not read its header ({reason}). "
            "The file is damaged or of another kind: copy it again from its source."
        ) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DatasetError(
            f"{path}: expected at most {MAX_PIXELS} pixels, its header says {width}x{height}. "
            "Replace the file by a smaller one."
        )
    frames = getattr(image, "n_frames", 1)
    if image.format in ("PNG", "TIFF", "WEBP") and frames > 1:  # those of a JPEG are previews and depth maps
        image.close()
        raise DatasetError(
            f"{path}: expected a single image, it holds {frames}. Save the one that is meant as a PNG of its own."
        )
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.Orientation, 1) != 1:
        image.close()  # releases of Pillow differ in whether they turn it
        raise DatasetError(f"{path}: expected an upright TIFF, its orientation tag turns it. Save it upright.")
    return image


def _damaged(path: Path, error: Exception | str) -> DatasetError:
    return DatasetError(
        f"{path}: expected a complete image, decoding stopped early ({error}). "
        "The file is truncated or damaged: copy it again from its source."
    )


def _load(image: Image.Image, path: Path) -> None:
    try:
        image.load()
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _check_chunks(image: Image.Image, path: Path) -> None:
    try:
        image.verify()
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _orientation(image: Image.Image) -> int:
    """Orientation tag of the metadata read so far; 1 (upright) where metadata are damaged."""
    try:
        # The method of all formats: that of PNG decodes all pixels first, where a header may be all that is wanted.
        with _without_warnings():
            return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _shown_size(image: Image.Image, path: Path) -> tuple[int, int]:
    """(height, width) as shown; pixels are decoded only where more metadata lie behind them."""
    if image.format == "PNG" and "exif" not in image.info and _metadata_behind_pixels(path):
        _load(image, path)
    size = image.height, image.width
    return size[::-1] if _orientation(image) in _SIDEWAYS else size


def _metadata_behind_pixels(path: Path) -> bool:
    """Whether a PNG has chunks that may hold an orientation after its pixels; only the heads of chunks are read."""
    kinds = []
    with path.open("rb", buffering=0) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            kinds.append(kind)
            file.seek(length + 4, 1)
    pixels = kinds.index(b"IDAT") if b"IDAT" in kinds else len(kinds)
    return not {b"eXIf", b"iTXt", b"zTXt"}.isdisjoint(kinds[pixels:])


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as shown, from the header."""
    with _open(path) as image:
        return _shown_size(image, path)


def read_image(path: Path, size: tuple[int, int] | None = None) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode an image as it is shown, as 8-bit RGB, and resize it.

    An orientation in its metadata is applied. Gray, palette and CMYK images become RGB, of 16 bits the upper 8 are
    taken, and an alpha channel is ignored.

    Returns:
        The image ``(H, W, 3)`` at ``size`` (height, width), bicubic and antialiased, and the size it is shown in.
    """
    with _open(path) as image:
        if image.mode not in _COLOR_MODES:
            raise DatasetError(
                f"{path}: expected a color, gray or palette image, got mode {image.mode!r}. Convert it to 8-bit RGB."
            )
        _load(image, path)
        deep = image.mode in _DEEP_MODES
        gray = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if deep else image
        decoded = _turned(gray.convert("RGB"), _orientation(image))
    shown = (decoded.height, decoded.width)
    if size is not None and size != shown:
        decoded = decoded.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.array(decoded, dtype=np.uint8), shown


def _require_ids(image: Image.Image, path: Path) -> None:
    if image.mode not in _ID_MODES or image.format not in ("PNG", "TIFF"):
        raise DatasetError(
            f"{path}: expected label ids as an 8-bit gray or palette PNG or TIFF, got {image.format} of mode "
            f"{image.mode!r}. Color renderings and instance ids cannot be read: take the label ids."
        )
    _require_whole_bytes(image, path)


def _require_whole_bytes(image: Image.Image, path: Path) -> None:
    if any(tile[3] in _PACKED_GRAY for tile in image.tile):
        raise DatasetError(
            f"{path}: expected label ids of at least 8 bits, got a gray PNG of fewer, whose values may be ids or "
            "shades of gray. Save the label ids as an 8-bit gray or palette PNG."
        )


def id_map_size(path: Path) -> tuple[int, int]:
    """(height, width) as :func:`read_id_map` gives it, from the header; another kind of file is an error."""
    with _open(path) as image:
        _require_ids(image, path)
        return _shown_size(image, path)


def read_id_map(path: Path) -> npt.NDArray[np.uint8]:
    """Raw ids ``(H, W)`` of a gray or palette PNG; of a palette the indices are the ids."""
    with _open(path) as image:
        _require_ids(image, path)
        _load(image, path)
        return np.array(_turned(image, _orientation(image)), dtype=np.uint8)


def first_channel_size(path: Path) -> tuple[int, int]:
    """(height, width) as :func:`read_first_channel` gives it, from the header; another kind of file is an error."""
    with _open(path) as image:
        _require_channels(image, path)
        return _shown_size(image, path)


def _require_channels(image: Image.Image, path: Path) -> None:
    if image.format != "PNG":
        raise DatasetError(f"{path}: expected a PNG label map, got {image.format}. Take the published file.")
    _require_whole_bytes(image, path)


def read_first_channel(path: Path) -> npt.NDArray[np.uint16]:
    """First (red) channel ``(H, W)`` of an 8- or 16-bit PNG of one or three channels; alpha is ignored.

    Pillow halves 16-bit color to its high byte, which is 0 for every class id, so OpenCV decodes here.
    OpenCV in turn fills up a truncated file in silence, so Pillow checks the chunks first.
    """
    with _open(path) as image:
        _require_channels(image, path)
        if image.mode == "P":
            return read_id_map(path).astype(np.uint16)
        if _metadata_behind_pixels(path):
            _load(image, path)
        else:
            _check_chunks(image, path)
        orientation = _orientation(image)
    decoded = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise _damaged(path, "not decodable")
    first = decoded if decoded.ndim == 2 else decoded[..., 2]  # OpenCV orders channels blue, green, red
    if orientation in _TURNS:
        first = np.asarray(_turned(Image.fromarray(first.astype(np.int32)), orientation))
    return np.ascontiguousarray(first, dtype=np.uint16)


def nearest_positions(stored: int, wanted: int) -> npt.NDArray[np.int64]:
    """Index of the stored pixel under the center of each wanted pixel: floor((i + 1/2) * stored / wanted).

    Integer arithmetic, hence the same on every machine. Pixel centers are those the antialiased image resize
    uses, so labels stay under the pixels they describe.
    """
    return ((2 * np.arange(wanted, dtype=np.int64) + 1) * stored) // (2 * wanted)


def resize_ids(ids: npt.NDArray[np.generic], size: tuple[int, int]) -> npt.NDArray[np.generic]:
    """Nearest resize ``(H, W)`` to ``size`` (height, width)."""
    if ids.shape == size:
        return ids
    rows = nearest_positions(ids.shape[0], size[0])
    columns = nearest_positions(ids.shape[1], size[1])
    return ids.take(rows, 0).take(columns, 1)  # a quarter of the time that indexing by both together takes
