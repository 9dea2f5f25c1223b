"""Decoding pictures and label maps, bounded and checked, and resizing both onto the same grid."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import DatasetError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**26  # four times the largest street picture in use; a hostile header asks for far more
_FORMATS = ("PNG", "JPEG")  # told by content: Pillow would also start programs for some that only end in .png
_COLOUR_MODES = {"RGB", "RGBA", "L", "P"}
_ID_MODES = {"L", "P"}


def _open(path: Path, max_pixels: int) -> Image.Image:
    """Read the header only, so that the size can be refused before any memory is spent on pixels."""
    try:
        with warnings.catch_warnings():  # the bound below is stricter than Pillow's warning
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=_FORMATS)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: expected a picture, found no file. Check the data set folder.") from error
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path}: expected at most {max_pixels} pixels, {error}. Replace the file.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(
            f"{path}: expected a PNG or JPEG picture, could not read its header ({error}). "
            "The file is damaged or of another kind: copy it again from its source."
        ) from error
    width, height = picture.size
    if width * height > max_pixels:
        picture.close()
        raise DatasetError(
            f"{path}: expected at most {max_pixels} pixels, its header says {width}x{height}. "
            "Replace the file, or raise max_pixels if the picture is meant to be that large."
        )
    return picture


def _damaged(path: Path, error: Exception | str) -> DatasetError:
    return DatasetError(
        f"{path}: expected a complete picture, decoding stopped early ({error}). "
        "The file is truncated or damaged: copy it again from its source."
    )


def picture_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) from the header."""
    with _open(path, max_pixels) as picture:
        return picture.height, picture.width


def read_image(
    path: Path, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode a picture as RGB and resize it.

    Returns:
        The picture ``(H, W, 3)`` at ``size`` (height, width), bicubic and antialiased, and its stored size.
    """
    with _open(path, max_pixels) as picture:
        if picture.mode not in _COLOUR_MODES:
            raise DatasetError(
                f"{path}: expected an 8-bit colour, grey or palette picture, got mode {picture.mode!r}. "
                "Convert it to 8-bit RGB."
            )
        stored = (picture.height, picture.width)
        try:
            decoded = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path, error) from error
    if size is not None and size != stored:
        decoded = decoded.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.array(decoded, dtype=np.uint8), stored


def read_id_map(path: Path, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Raw ids ``(H, W)`` of a grey or palette PNG. A palette is left unapplied: its indices are the ids."""
    with _open(path, max_pixels) as picture:
        if picture.mode not in _ID_MODES or picture.format != "PNG":
            raise DatasetError(
                f"{path}: expected label ids as an 8-bit grey or palette PNG, got {picture.format} of mode "
                f"{picture.mode!r}. Colour renderings and instance ids cannot be read: take the label ids."
            )
        try:
            return np.array(picture, dtype=np.uint8)
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path, error) from error


def read_first_channel(path: Path, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint16]:
    """First (red) channel ``(H, W)`` of an 8- or 16-bit PNG of one or three channels.

    Pillow halves 16-bit colour to its high byte, which is 0 for every class id, so OpenCV decodes here.
    OpenCV in turn fills up a truncated file in silence, so Pillow checks the chunks first.
    """
    with _open(path, max_pixels) as picture:
        if picture.format != "PNG":
            raise DatasetError(f"{path}: expected a PNG label map, got {picture.format}. Take the published file.")
        if picture.mode == "P":
            return read_id_map(path, max_pixels).astype(np.uint16)
        try:
            picture.verify()
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path, error) from error
    decoded = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise _damaged(path, "not decodable")
    first = decoded if decoded.ndim == 2 else decoded[..., 2]  # OpenCV orders channels blue, green, red
    return np.ascontiguousarray(first, dtype=np.uint16)


def nearest_positions(stored: int, wanted: int) -> npt.NDArray[np.int64]:
    """Index of the stored pixel under the centre of each wanted pixel: floor((i + 1/2) * stored / wanted).

    Integer arithmetic, hence the same on every machine. Pixel centres are those the antialiased image resize
    uses, so labels stay under the pixels they describe.
    """
    return ((2 * np.arange(wanted, dtype=np.int64) + 1) * stored) // (2 * wanted)


def resize_ids(ids: npt.NDArray[np.generic], size: tuple[int, int]) -> npt.NDArray[np.generic]:
    """Nearest resize ``(H, W)`` to ``size`` (height, width)."""
    if ids.shape == size:
        return ids
    rows = nearest_positions(ids.shape[0], size[0])
    columns = nearest_positions(ids.shape[1], size[1])
    return ids.take(rows, 0).take(columns, 1)  # a quarter of the time that indexing by both at once takes
