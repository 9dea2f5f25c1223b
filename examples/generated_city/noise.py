"""Tiles of fractal noise: surfaces of the real world have 1/f spectra, flat polygons do not."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = 512


@lru_cache(maxsize=32)
def fractal_tile(slope: float, variant: int) -> NDArray[np.float32]:
    """A periodic (512, 512) field of mean 0 and deviation 1 whose amplitude falls as 1/f**slope."""
    rng = np.random.default_rng([9001, int(slope * 100), variant])
    fy, fx = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE))) / radius**slope
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray(np.round(field / field.std(), 4), np.float32)


def noise_patch(
    rng: np.random.Generator, height: int, width: int, slope: float, zoom: float = 1.0
) -> NDArray[np.float32]:
    """A random (height, width) cut of a tile, ``zoom`` pixels of output per pixel of tile."""
    tile = fractal_tile(slope, int(rng.integers(4)))
    rows = min(int(np.ceil(height / zoom)), TILE)
    columns = min(int(np.ceil(width / zoom)), TILE)
    dy, dx = (int(v) for v in rng.integers(0, TILE, 2))
    cut = np.take(np.take(tile, range(dy, dy + rows), 0, mode="wrap"), range(dx, dx + columns), 1, mode="wrap")
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def noise_at(
    x: NDArray[np.float32], y: NDArray[np.float32], slope: float, variant: int, pixels_per_metre: float
) -> NDArray[np.float32]:
    """The tile sampled at ground positions in meters, wrapping round."""
    # remap counts in 16 bits; ground as far out as 30000 pixels of tile has no visible texture any more
    limit = np.float32(30000)
    columns = np.maximum(np.minimum(x * np.float32(pixels_per_metre), limit), -limit)
    rows = np.maximum(np.minimum(y * np.float32(pixels_per_metre), limit), -limit)
    tile = fractal_tile(slope, variant)
    return np.asarray(cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)
