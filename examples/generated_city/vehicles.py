"""Vehicles as small solids: a side profile swept across the width, with glass, lights, plates and wheels.

Sweeping a profile gives the right view from behind, beside or ahead from one description, and a family of shapes
per city from a few numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import NEAR
from .canvas import as_color
from .label_ids import BUS, CAR, TRAIN, TRUCK
from .noise import noise_patch
from .painter import Painter
from .vehicle_shapes import Shape, vehicle_shape

LABELS = {"truck": TRUCK, "bus": BUS, "tram": TRAIN}
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Vehicle:
    """``heading`` is the direction of travel: 0 along +z, growing towards +x."""

    kind: str
    x: float
    z: float
    heading: float
    color: tuple[float, float, float]
    seed: int
    braking: bool = False
    domain: str = "game"

    @property
    def shape(self) -> Shape:
        return vehicle_shape(self.kind, self.domain, self.seed)

    def world(self, local: Points) -> Points:
        """Local (forward, up, right) to world coordinates."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        turn = np.array([[sin, 0.0, cos], [0.0, 1.0, 0.0], [cos, 0.0, -sin]])
        return np.asarray(np.asarray(local, np.float64) @ turn + np.array([self.x, 0.0, self.z]))

    def direction(self, local: Points) -> Points:
        """A local direction in world axes."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        return np.array([local[0] * sin + local[2] * cos, local[1], local[0] * cos - local[2] * sin])

    def ground_box(self) -> Points:
        """Footprint (4, 3) for contact shadows."""
        s, w = self.shape.length / 2, self.shape.half_width
        return self.world(np.array([[-s, 0, -w], [-s, 0, w], [s, 0, w], [s, 0, -w]]))

    def paint(self, painter: Painter) -> None:
        shape, label = self.shape, LABELS.get(self.kind, CAR)
        if not painter.camera.sees(self.x, self.z, shape.length / 2 + 1):
            return
        eye = np.array([0.0, painter.camera.eye, 0.0])
        self._paint_bulk(painter, label)
        strips = []
        for k in range(len(shape.profile) - 1):
            (s0, y0, w0), (s1, y1, w1) = shape.profile[k], shape.profile[k + 1]
            quad = self.world(np.array([[s0, y0, -w0], [s0, y0, w0], [s1, y1, w1], [s1, y1, -w1]]))
            normal = self.direction(np.array([-(y1 - y0), s1 - s0, 0.0]))
            if normal @ (eye - quad.mean(axis=0)) > 0:
                length = max(float(np.linalg.norm(normal)), 1e-6)
                strips.append((float(painter.camera.view(quad)[:, 2].mean()), k, quad, normal / length))
        self._paint_wheels(painter, label, eye, inner=True)
        for _, k, quad, normal in sorted(strips, key=lambda strip: -strip[0]):
            self._paint_strip(painter, label, k, quad, normal)
        for side in (-1, 1):
            normal = self.direction(np.array([0.0, 0.0, float(side)]))
            if normal @ (eye - self.world(np.array([0.0, 1.0, side * shape.half_width]))) > 0:
                self._paint_side(painter, label, side, normal)
                self._paint_wheels(painter, label, eye, inner=False, side=side)
        self._reflect_street(painter, label)

    def _paint_bulk(self, painter: Painter, label: int) -> None:
        """Silhouettes of the lower and the upper body, so that no seam between the panels shows the street."""
        rows = np.array(self.shape.profile)
        waist = self.shape.waist
        for part in (rows[rows[:, 1] <= waist + 0.01], rows[rows[:, 1] >= waist - 0.01]):
            if len(part) < 2:
                continue
            both = np.concatenate([part, part * [1, 1, -1]])
            view = painter.camera.view(self.world(both))
            if view[:, 2].min() < NEAR:
                continue
            hull = np.asarray(cv2.convexHull(painter.camera.pixels(view).astype(np.float32))[:, 0], np.float32)
            tone = painter.shaded(np.array(self.color), 0.8)
            painter.canvas.fill(hull, tone, label, float(view[:, 2].mean()))

    def _reflect_street(self, painter: Painter, label: int) -> None:
        """Enamel mirrors a bright sky above and a dark street below: uneven tones instead of flat polygons."""
        shape = self.shape
        rows = np.array(shape.profile)
        view = painter.camera.view(self.world(np.concatenate([rows, rows * [1, 1, -1]])))
        if view[:, 2].min() < NEAR:
            return
        window = painter.canvas.window(painter.camera.pixels(view))
        if window is None or window[1] - window[0] < 14 or window[3] - window[2] < 14:
            return
        top, bottom, left, right = window
        ramp = np.linspace(1.16, 0.84, bottom - top, dtype=np.float32)[:, None]
        rng = np.random.default_rng([53, self.seed])
        gain = ramp * (1 + 0.07 * noise_patch(rng, bottom - top, right - left, 1.3, 2.0))
        part = painter.canvas.rgb[top:bottom, left:right]
        ours = painter.canvas.ids[top:bottom, left:right] == label
        mirrored = np.minimum(part * gain[:, :, None], 255).astype(np.uint8)
        np.copyto(part, mirrored, where=ours[:, :, None])

    def _paint_strip(self, painter: Painter, label: int, k: int, quad: Points, normal: Points) -> None:
        material = self.shape.materials[k]
        body = painter.lit(np.array(self.color), normal)
        if normal[1] > 0.5:  # what faces up mirrors the sky
            body = as_color(0.72 * np.array(body) + 0.28 * np.array([200.0, 210, 220]))
        if material == "trim":
            body = painter.lit(np.array([42.0, 42, 45]), normal)
        painter.flat(quad, body, label)
        if material == "glass":
            tone = painter.shaded(np.array(self.shape.glass))
            painter.flat(_inset(quad, 0.07, 0.93, 0.06, 0.94), tone, None)
            painter.flat(_inset(quad, 0.07, 0.93, 0.5, 0.94), as_color(1.5 * np.array(tone) + 22), None)
        for decal in self.shape.decals.get(k, ()):
            color: NDArray[np.float64] = np.array(decal.color, np.float64)
            if decal.lamp:
                tone = as_color(color * (1.0 if self.braking or decal.color[2] > 99 else 0.6))
            else:
                tone = painter.lit(color, normal)
            painter.flat(_inset(quad, *decal.box), tone, None)

    def _paint_side(self, painter: Painter, label: int, side: int, normal: Points) -> None:
        shape = self.shape
        body = painter.lit(np.array(self.color), normal)
        low = painter.lit(np.array(self.color) * 0.68, normal)
        glass = painter.shaded(np.array(shape.glass))
        tones = {"body": body, "low": low, "glass": glass, "trim": painter.lit(np.array([40.0, 40, 42]), normal)}
        tones["stripe"] = painter.lit(np.array(shape.stripe), normal)
        tones["shine"] = as_color(0.8 * np.array(body) + 45)
        for material, outline, is_silhouette in shape.sides:
            local = np.array([[s, y, side * w] for s, y, w in outline])
            painter.flat(self.world(local), tones[material], label if is_silhouette else None)

    def _paint_wheels(self, painter: Painter, label: int, eye: Points, *, inner: bool, side: int = 1) -> None:
        """Outer wheels are discs on the visible side; inner ones the dark ends of tyres below the bumpers."""
        shape, turn = self.shape, np.linspace(0, 2 * np.pi, 14, endpoint=False)
        for s in shape.axles:
            if inner:
                for w in (-shape.half_width + 0.12, shape.half_width - 0.12):
                    for end in (-1, 1):
                        at = s + end * shape.wheel * 0.9
                        quad = [[at, 0, w - 0.1], [at, 0, w + 0.1], [at, 0.35, w + 0.1], [at, 0.35, w - 0.1]]
                        painter.flat(self.world(np.array(quad)), (16, 16, 17), label)
                continue
            for radius, color in (
                (shape.wheel, (20.0, 20, 22)),
                (shape.wheel * 0.62, shape.hub),
                (0.08, (30, 30, 30)),
            ):
                rim = np.stack(
                    [
                        s + radius * np.cos(turn),
                        shape.wheel + radius * np.sin(turn),
                        np.full(14, side * shape.half_width),
                    ],
                    axis=1,
                )
                painter.flat(self.world(rim), painter.shaded(np.array(color)), label)


def _inset(quad: Points, a0: float, a1: float, b0: float, b1: float) -> Points:
    """Part of a quad in its own coordinates: a across (left to right), b from its first edge to the second."""
    p0, p1, p2, p3 = quad

    def at(a: float, b: float) -> Points:
        return np.asarray((1 - b) * ((1 - a) * p0 + a * p1) + b * ((1 - a) * p3 + a * p2))

    return np.array([at(a0, b0), at(a1, b0), at(a1, b1), at(a0, b1)])
