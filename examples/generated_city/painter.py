"""What an object needs to paint itself: the canvas, the camera and the light of its scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .camera import NEAR, Camera
from .canvas import Bytes, Canvas, Color, Floats, as_color
from .lighting import Light


@dataclass(frozen=True)
class Painter:
    """World-space painting: projects, lights, then hands pixels to the canvas."""

    canvas: Canvas
    camera: Camera
    light: Light
    domain: str

    def lit(self, color: Floats, normal: Floats) -> Color:
        """Surface color under this scene's light."""
        return as_color(np.asarray(color, np.float64) * self.light.on(np.asarray(normal)))

    def shaded(self, color: Floats, share: float = 1.0) -> Color:
        """Color of something without a clear facing: the sky's light and half of the sun's."""
        return as_color(np.asarray(color, np.float64) * (self.light.ambient + 0.5 * self.light.sun) * share)

    def flat(self, points: Floats, color: Color, label: int | None) -> None:
        """A polygon given in world coordinates (N, 3)."""
        outline = self.camera.polygon(points)
        if outline is not None:
            self.canvas.fill(outline[0], color, label, outline[1] if label is not None else None)

    def foot(self, x: float, z: float, y: float = 0.0) -> tuple[float, float, float, float] | None:
        """Column, row, pixels per meter and depth of a spot, or None when it is not in front."""
        view = self.camera.view(np.array([[x, y, z]]))
        depth = float(view[0, 2])
        if depth < NEAR + 0.5:
            return None
        column, row = self.camera.pixels(view)[0]
        return float(column), float(row), self.camera.focal / depth, depth

    def wall(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        heights: tuple[float, float],
        image: Bytes,
        label: int,
        gain: Floats,
    ) -> None:
        """An image hung upright between two ground points, left to right as seen from the street."""
        ends = self.camera.view(np.array([[start[0], 0, start[1]], [end[0], 0, end[1]]]))
        cut = [0.0, 1.0]
        for k in (0, 1):
            if ends[k, 2] < NEAR:
                if ends[1 - k, 2] <= NEAR + 0.05:
                    return
                cut[k] = k + (1 - 2 * k) * (NEAR - ends[k, 2]) / (ends[1 - k, 2] - ends[k, 2])
        width = image.shape[1]
        first, last = int(cut[0] * width), max(int(np.ceil(cut[1] * width)), int(cut[0] * width) + 1)
        low = ends[0] + np.array(cut)[:, None] * (ends[1] - ends[0])
        depths = float(low[0, 2]), float(low[1, 2])
        corners = np.concatenate([low, low[::-1]])
        corners[:2, 1] += heights[1]
        corners[2:, 1] += heights[0]
        self.canvas.texture(self.camera.pixels(corners), image[:, first:last], label, depths, gain)


class Paintable(Protocol):
    """Anything that stands in the street."""

    def paint(self, painter: Painter) -> None: ...


Outline = NDArray[np.float64]
