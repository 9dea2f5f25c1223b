"""House fronts as flat images: walls, window grids, shops, cornices, in a style per city.

Fronts are drawn once per library slot and reused with another tint, cut and light: drawing one takes as long as
warping a dozen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .noise import noise_patch

Bytes = NDArray[np.uint8]
PIXELS_PER_METRE = 26
GROUND_EXTRA = 0.6  # meters that the ground floor is higher than the others
WALLS = {
    "game": [(176, 92, 66), (150, 74, 58), (205, 178, 140), (222, 210, 190), (128, 120, 112), (92, 78, 70),
             (190, 186, 180), (232, 230, 226), (110, 60, 50), (164, 140, 104), (70, 66, 66), (120, 96, 78)],
    "camera": [(198, 190, 170), (176, 172, 160), (206, 196, 150), (150, 146, 138), (184, 160, 140),
               (162, 170, 160), (214, 210, 200), (128, 116, 108)],
}  # fmt: skip


SLOTS = 20  # fronts per style
TALLEST = {"center": 6, "residential": 4, "green": 6, "modern": 12}


WindowPainter = Callable[[NDArray[np.float32], int, int], None]  # image, left, top of the cell


@lru_cache(maxsize=640)
def facade(domain: str, style: str, slot: int, level: int, blank: bool = False) -> Bytes:
    """A front of the style's greatest height, halved ``level`` times; lower houses cut floors off its top.

    ``blank`` is the same wall without openings, for gables and fire walls.
    """
    if level:
        above = facade(domain, style, slot, level - 1, blank)
        size = max(above.shape[1] // 2, 1), max(above.shape[0] // 2, 1)
        return np.asarray(cv2.resize(above, size, interpolation=cv2.INTER_AREA), np.uint8)
    rng = np.random.default_rng([77, 1 if domain == "game" else 2, len(style), slot])
    floors = TALLEST[style]
    bay = rng.uniform(2.0, 3.6) if style != "modern" else rng.uniform(1.2, 2.6)
    bays = int(rng.integers(3, 8))
    floor_px, bay_px = 3 * PIXELS_PER_METRE, round(bay * PIXELS_PER_METRE)
    height, width = round((3.0 * floors + GROUND_EXTRA) * PIXELS_PER_METRE), bays * bay_px
    ground_px = height - (floors - 1) * floor_px
    wall = np.array(WALLS[domain][int(rng.integers(len(WALLS[domain])))], np.float32)
    image = _wall(rng, domain, height, width, wall)
    if blank:
        return image.clip(0, 255).astype(np.uint8)
    cell = _window_maker(rng, domain, style, bay_px, floor_px)
    for floor in range(floors - 1):
        for column in range(bays):
            cell(image, column * bay_px, floor * floor_px)
    _ground_floor(rng, domain, style, image, height - ground_px, bays, bay_px)
    return image.clip(0, 255).astype(np.uint8)


def _wall(
    rng: np.random.Generator, domain: str, height: int, width: int, color: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Brick courses, panels or plaster with stains: the fine texture that differs between the two cities."""
    grain = 1 + 0.05 * noise_patch(rng, height, width, 0.5) + 0.06 * noise_patch(rng, height, width, 1.4, 2)
    image = color[None, None] * grain[:, :, None]
    if domain == "game" and rng.random() < 0.5:  # brick
        bricks = rng.normal(1, 0.09, (height // 3 + 1, width // 8 + 1)).astype(np.float32)
        image *= np.repeat(np.repeat(bricks, 3, 0), 8, 1)[:height, :width, None]
        image[2::3] *= 0.86
    elif domain == "camera":
        streaks = cv2.GaussianBlur(rng.normal(0, 1, (1, width)).astype(np.float32), (0, 0), 3)
        image *= 1 + 0.12 * streaks[:, :, None] * np.linspace(1, 0.2, height, dtype=np.float32)[:, None, None]
        if rng.random() < 0.5:  # horizontal render joints
            image[:: PIXELS_PER_METRE // 2] *= 0.82
    return image


def _window_maker(rng: np.random.Generator, domain: str, style: str, bay_px: int, floor_px: int) -> WindowPainter:
    """A function that paints one window of this house's kind into a cell."""
    share = rng.uniform(0.38, 0.6) if style != "modern" else rng.uniform(0.7, 0.96)
    tall = rng.uniform(0.45, 0.66) if style != "modern" else rng.uniform(0.5, 0.92)
    w, h = max(4, round(bay_px * share)), max(5, round(floor_px * tall))
    left, top = (bay_px - w) // 2, round((floor_px - h) * 0.55)
    frame = np.array([235, 233, 228] if rng.random() < 0.6 else [60, 50, 45], np.float32)
    glass = np.array(
        [rng.uniform(25, 70), rng.uniform(32, 80), rng.uniform(40, 95)]
        if domain == "game"
        else [rng.uniform(60, 105), rng.uniform(66, 110), rng.uniform(68, 112)],
        np.float32,
    )
    lintel, sill = rng.random() < 0.5, rng.random() < 0.6
    shutters = domain == "camera" and style != "modern" and rng.random() < 0.4
    balcony = style != "center" and rng.random() < (0.5 if domain == "camera" else 0.15)
    mullions = int(rng.integers(1, 4))
    transom = rng.random() < 0.6

    def paint(image: NDArray[np.float32], x: int, y: int) -> None:
        y0, x0 = y + top, x + left
        image[y0 - 1 : y0 + h + 1, max(x0 - 1, 0) : x0 + w + 1] = frame
        pane = glass * rng.uniform(0.6, 1.5)
        if rng.random() < 0.25:
            pane = pane * 0.4 + np.array([190, 185, 170], np.float32) * rng.uniform(0.3, 0.6)
        fade = np.linspace(rng.uniform(1.0, 1.7), rng.uniform(0.6, 1.0), h - 2, dtype=np.float32)
        image[y0 + 1 : y0 + h - 1, x0 + 1 : x0 + w - 1] = pane * fade[:, None, None]
        for k in range(1, mullions):
            image[y0 : y0 + h, x0 + k * w // mullions] = frame
        if transom:
            image[y0 + h // 3, x0 : x0 + w] = frame
        if lintel:
            image[max(y0 - 4, 0) : max(y0 - 1, 0), max(x0 - 2, 0) : x0 + w + 2] *= 1.3
        if sill:
            image[y0 + h + 1 : y0 + h + 3, max(x0 - 2, 0) : x0 + w + 2] *= 1.3
            image[y0 + h + 3 : y0 + h + 5, x0 : x0 + w] *= 0.75
        if shutters:
            for at in (x0 - w // 3, x0 + w + 1):
                image[y0 : y0 + h, max(at, 0) : at + w // 3] *= np.array([0.5, 0.62, 0.55], np.float32)
        if balcony:
            at = y0 + h * 2 // 3
            image[at : y0 + h + 4, x + 2 : x + bay_px - 2] *= 0.55
            image[at : at + 2, x + 2 : x + bay_px - 2] = frame * 0.8

    return paint


def _ground_floor(
    rng: np.random.Generator, domain: str, style: str, image: NDArray[np.float32], top: int, bays: int, bay_px: int
) -> None:
    """Shops with signs in the center, doors and low windows elsewhere."""
    shops = rng.random() < {"center": 0.75, "modern": 0.5, "green": 0.15, "residential": 0.1}[style]
    height = image.shape[0]
    image[top:] *= rng.uniform(0.7, 1.1)
    door_at = int(rng.integers(bays))
    sign = rng.uniform(20, 235, 3) if domain == "game" else rng.uniform(70, 170, 3)
    for k in range(bays):
        x0, x1 = k * bay_px + bay_px // 8, (k + 1) * bay_px - bay_px // 8
        if shops:
            if k % 3 == 0:
                sign = rng.uniform(20, 235, 3) if domain == "game" else rng.uniform(70, 170, 3)
            image[top + 8 : top + 20, k * bay_px : (k + 1) * bay_px] = sign
            for letter in range(k * bay_px + 6, (k + 1) * bay_px - 6, 4):
                if rng.random() < 0.5:
                    image[top + 11 : top + 17, letter : letter + 2] = 255 - sign
            glass = rng.uniform(20, 90) * np.array([0.95, 1.0, 1.05])
            patch = noise_patch(rng, height - 9 - top - 24, x1 - x0, 1.2)[:, :, None]
            image[top + 24 : height - 9, x0:x1] = glass + 22 * patch
        elif k == door_at:
            paint = rng.uniform(20, 150, 3)
            middle = (x0 + x1) // 2
            image[height - 56 : height, middle - 12 : middle + 12] = paint
            image[height - 60 : height - 56, middle - 14 : middle + 14] *= 1.3
        else:
            y0 = top + 26
            image[y0 - 2 : height - 24, x0 - 2 : x1 + 2] = 215
            image[y0 : height - 26, x0:x1] = rng.uniform(30, 80) * np.array([0.95, 1.0, 1.05])
            image[y0 : height - 26, (x0 + x1) // 2] = 215
