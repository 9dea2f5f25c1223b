"""Pinhole camera over a flat ground plane: every object goes through it, so perspective agrees everywhere.

World axes: x to the right, y up, z along the street; meters; the camera stands at (0, eye, 0). Pitch is
modeled as a shift of the horizon row, which keeps verticals vertical as rectified street images have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
NEAR = 0.7  # meters; anything closer is behind the windscreen


@dataclass(frozen=True)
class Camera:
    """Where the image is taken from; pixels are those of the canvas it draws on."""

    width: int
    height: int
    focal: float
    horizon: float
    eye: float
    yaw: float

    def view(self, points: Floats) -> NDArray[np.float64]:
        """World points (N, 3) as (right, above the eye, ahead)."""
        return (np.asarray(points, np.float64).reshape(-1, 3) - self._position) @ self._turn

    @cached_property
    def _position(self) -> NDArray[np.float64]:
        return np.array([0.0, self.eye, 0.0])

    @cached_property
    def _turn(self) -> NDArray[np.float64]:
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])

    @cached_property
    def _center(self) -> NDArray[np.float64]:
        return np.array([self.width / 2, self.horizon])

    @cached_property
    def _zoom(self) -> NDArray[np.float64]:
        return np.array([self.focal, -self.focal])

    def pixels(self, view: Floats) -> NDArray[np.float64]:
        """Points already in front of the camera as columns and rows (N, 2)."""
        return self._center + view[:, :2] / view[:, 2:] * self._zoom

    def polygon(self, points: Floats) -> tuple[NDArray[np.float64], float] | None:
        """Outline of a world polygon cut at the near plane and its mean depth, or None if all is behind."""
        view = self.view(points)
        if view[:, 2].min() < NEAR:
            view = _cut_behind(view)
            if len(view) < 3:
                return None
        return self.pixels(view), float(view[:, 2].mean())

    def sees(self, x: float, z: float, radius: float) -> bool:
        """Whether something this wide at a ground position can reach into the image."""
        right = float(np.cos(self.yaw) * x - np.sin(self.yaw) * z)
        ahead = self.depth(x, z) + radius
        return ahead > NEAR and abs(right) - radius < ahead * self.width / (2 * self.focal)

    def depth(self, x: float, z: float) -> float:
        """How far ahead of the camera a ground position lies."""
        return float(np.sin(self.yaw) * x + np.cos(self.yaw) * z)

    def ground(
        self, first: int, last: int, step: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """World x, z and depth seen at every ``step``-th pixel of the rows from ``first`` up to ``last``."""
        rows = np.arange(first, last, step, dtype=np.float32)[:, None] + step / 2
        below = np.maximum(rows - np.float32(self.horizon), 0.25)
        ahead = np.float32(self.focal * self.eye) / below
        columns = np.arange(0, self.width, step, dtype=np.float32)[None] + np.float32((step - self.width) / 2)
        right = columns * (ahead / np.float32(self.focal))
        cos, sin = np.float32(np.cos(self.yaw)), np.float32(np.sin(self.yaw))
        return cos * right + sin * ahead, cos * ahead - sin * right, np.broadcast_to(ahead, right.shape)


def _cut_behind(view: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep the part of a polygon beyond the near plane (one plane of Sutherland and Hodgman)."""
    kept: list[NDArray[np.float64]] = []
    for here, there in zip(view, np.roll(view, -1, axis=0), strict=True):
        inside, next_inside = here[2] >= NEAR, there[2] >= NEAR
        if inside:
            kept.append(here)
        if inside != next_inside:
            share = (NEAR - here[2]) / (there[2] - here[2])
            kept.append(here + share * (there - here))
    return np.asarray(kept).reshape(-1, 3)
