"""The image, its labels and its depth, painted together so that they can never disagree.

Everything is painted far to near at twice the final size; the image is averaged down and the labels are
picked, which gives soft image edges and crisp ids.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]
Color = tuple[float, float, float]
SUBPIXEL = 4  # bits of sub-pixel position that OpenCV keeps
FAR = 400.0


def fixed_point(points: Floats) -> NDArray[np.int32]:
    """Pixel positions as OpenCV's fixed-point integers, kept inside its range."""
    return (np.minimum(np.maximum(points, -60000), 60000) * (1 << SUBPIXEL) + 0.5).astype(np.int32)


def as_color(values: Floats) -> Color:
    """Three numbers as a color OpenCV takes, cut to what a byte holds."""
    r, g, b = (min(max(float(v), 0.0), 255.0) for v in values)
    return r, g, b


class Canvas:
    """Three co-registered layers: ``rgb`` (H, W, 3), ``ids`` (H, W) and ``depth`` (H, W) in meters."""

    def __init__(self, width: int, height: int) -> None:
        self.rgb: Bytes = np.zeros((height, width, 3), np.uint8)
        self.ids: Bytes = np.zeros((height, width), np.uint8)
        self.depth: NDArray[np.float32] = np.full((height, width), FAR, np.float32)

    def fill(self, points: Floats, color: Color, label: int | None, depth: float | None = None) -> None:
        """A flat polygon; ``label`` None paints detail on something that is labeled already."""
        outline = [fixed_point(points)]
        cv2.fillPoly(self.rgb, outline, color, shift=SUBPIXEL)
        if label is not None:
            cv2.fillPoly(self.ids, outline, label, shift=SUBPIXEL)
        if depth is not None:
            cv2.fillPoly(self.depth, outline, depth, shift=SUBPIXEL)

    def label_only(self, points: Floats, label: int) -> None:
        """A polygon in the labels alone: annotators fill what one sees through."""
        cv2.fillPoly(self.ids, [fixed_point(points)], label, shift=SUBPIXEL)

    def stroke(self, points: Floats, color: Color, width: float, label: int | None, depth: float | None = None) -> None:
        """A round-ended line of ``width`` pixels through the points."""
        line = [fixed_point(points)]
        thickness = max(1, min(round(width), 200))
        cv2.polylines(self.rgb, line, False, color, thickness, cv2.LINE_8, SUBPIXEL)
        if label is not None:
            cv2.polylines(self.ids, line, False, label, max(2, thickness), cv2.LINE_8, SUBPIXEL)
        if depth is not None:
            cv2.polylines(self.depth, line, False, depth, thickness, cv2.LINE_8, SUBPIXEL)

    def window(self, points: Floats) -> tuple[int, int, int, int] | None:
        """Rows and columns (top, bottom, left, right) that the points span inside the image."""
        height, width = self.ids.shape
        (low_x, low_y), (high_x, high_y) = points.min(axis=0), points.max(axis=0)
        left, top = int(max(low_x, 0)), int(max(low_y, 0))
        right, bottom = int(np.ceil(min(high_x, width))), int(np.ceil(min(high_y, height)))
        return (top, bottom, left, right) if bottom > top and right > left else None

    def texture(self, quad: Floats, image: Bytes, label: int, depths: tuple[float, float], gain: Floats) -> None:
        """A flat image in perspective; ``quad`` is top-left, top-right, bottom-right, bottom-left."""
        window = self.window(quad)
        if window is None:
            return
        top, bottom, left, right = window
        image = tinted(_shrink(image, quad), gain)
        height, width = image.shape[:2]
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        place = quad - np.array([left, top])
        transform = cv2.getPerspectiveTransform(corners, place.astype(np.float32))
        size = (right - left, bottom - top)
        warped = cv2.warpPerspective(image, transform, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [fixed_point(place)], 255, shift=SUBPIXEL)
        inside = mask > 0
        cv2.copyTo(warped, mask, self.rgb[top:bottom, left:right])
        self.ids[top:bottom, left:right][inside] = label
        columns = np.arange(left, right)
        ends = quad[0, 0], quad[1, 0]
        if abs(ends[1] - ends[0]) < 1:
            self.depth[top:bottom, left:right][inside] = depths[0]
            return
        share = ((columns - ends[0]) / (ends[1] - ends[0])).clip(0, 1)
        distance = 1 / (share / depths[1] + (1 - share) / depths[0])
        np.copyto(self.depth[top:bottom, left:right], distance.astype(np.float32)[None], where=inside)

    def sprite(
        self,
        box: tuple[float, float, float, float],
        image: Bytes,
        label: int,
        depth: float,
        gain: Floats,
    ) -> None:
        """An RGBA image stretched over the box (left, top, right, bottom) and blended by its alpha."""
        left, top, right, bottom = box
        quad = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        window = self.window(quad)
        if window is None:
            return
        image = tinted(_shrink(image, quad), gain)
        sx, sy = (right - left) / image.shape[1], (bottom - top) / image.shape[0]
        y0, y1, x0, x1 = window
        move = np.array([[sx, 0, left - x0], [0, sy, top - y0]], np.float64)
        placed = cv2.warpAffine(image, move, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        alpha = placed[:, :, 3:].astype(np.uint16)
        under = self.rgb[y0:y1, x0:x1]
        mixed = (placed[:, :, :3] * alpha + under * (255 - alpha)) // 255
        under[...] = mixed.astype(np.uint8)
        solid = placed[:, :, 3] > 110
        self.ids[y0:y1, x0:x1][solid] = label
        self.depth[y0:y1, x0:x1][solid] = depth


def tinted(image: Bytes, gain: Floats) -> Bytes:
    """The image with each color channel multiplied; alpha stays."""
    levels = np.arange(256, dtype=np.float64)[:, None]
    table = (levels * np.asarray(gain)[None]).clip(0, 255)
    if image.shape[2] == 4:
        table = np.concatenate([table, levels], axis=1)
    return np.asarray(cv2.LUT(image, table.astype(np.uint8)[:, None]), np.uint8)


def _shrink(image: Bytes, quad: Floats) -> Bytes:
    """Average a texture down to about its size on the canvas, so that distance does not sparkle."""
    edges = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    wide, high = max(edges[0], edges[2], 1.0), max(edges[1], edges[3], 1.0)
    height, width = image.shape[:2]
    if wide * 1.5 >= width and high * 1.5 >= height:
        return image
    size = (int(np.clip(np.ceil(wide), 1, width)), int(np.clip(np.ceil(high), 1, height)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
