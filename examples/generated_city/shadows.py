"""Shadows on the ground: sun shadows of solids swept along the light, and the dark contact under vehicles."""

from __future__ import annotations

import cv2
import numpy as np

from .buildings import Building
from .canvas import SUBPIXEL, fixed_point
from .painter import Painter
from .people import Cycle, Person
from .roadside import Barrier, Pole, Tree
from .vehicles import Vehicle


def paint_shadows(painter: Painter, objects: list[object]) -> None:
    """Darken the painted ground; called before anything depends on it."""
    canvas, camera = painter.canvas, painter.camera
    first = max(int(camera.horizon) + 1, 0)
    if first >= camera.height - 2:
        return
    half = np.array([0.5, 0.5])
    sun = np.zeros((camera.height // 2, camera.width // 2), np.uint8)
    contact = np.zeros_like(sun)
    for item in objects:
        if isinstance(item, Vehicle):
            box = item.ground_box()
            _fill(contact, painter, box.mean(axis=0) + 1.06 * (box - box.mean(axis=0)), half)
        if painter.light.shadow > 0.05:
            for footprint, height in _solids(item):
                dx, dz = painter.light.shadow_offset(height)
                far = footprint + np.array([dx, 0.0, dz])
                hull = cv2.convexHull(np.concatenate([footprint, far])[:, [0, 2]].astype(np.float32))[:, 0]
                _fill(sun, painter, np.stack([hull[:, 0], np.zeros(len(hull)), hull[:, 1]], axis=1), half)
    soft = cv2.GaussianBlur(sun, (0, 0), 1.2).astype(np.float32) / 255 * painter.light.shadow
    under = cv2.GaussianBlur(contact, (0, 0), 2.0).astype(np.float32) / 255 * 0.62
    keep = cv2.resize((1 - soft) * (1 - under), (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)
    levels = cv2.cvtColor((keep[first:] * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    canvas.rgb[first:] = cv2.multiply(canvas.rgb[first:], levels, scale=1 / 255)


def _fill(mask: np.ndarray, painter: Painter, points: np.ndarray, scale: np.ndarray) -> None:
    outline = painter.camera.polygon(points)
    if outline is not None:
        cv2.fillPoly(mask, [fixed_point(outline[0] * scale)], 255, shift=SUBPIXEL)


def _solids(item: object) -> list[tuple[np.ndarray, float]]:
    """Footprints (N, 3) and heights that stand for an object's shadow."""
    if isinstance(item, Vehicle):
        return [(item.ground_box(), item.shape.profile[5][1] * 0.9)]
    if isinstance(item, Building):
        return [(np.array([[x, 0, z] for x, z in item.footprint()]), item.eaves)]
    if isinstance(item, Tree):
        turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        r = item.width * 0.36
        disc = np.stack([item.x + r * np.cos(turn), np.zeros(8), item.z + r * np.sin(turn)], axis=1)
        return [(disc, item.height * 0.85)] if item.kind != "bare" else [(disc * [1, 1, 1] * 1.0, 0.2)]
    if isinstance(item, Pole):
        return [(_square(item.x, item.z, 0.07), item.height)]
    if isinstance(item, Person):
        return [(_square(item.x, item.z, 0.2), item.height)]
    if isinstance(item, Cycle):
        return [(_square(item.x, item.z, 0.3), 1.6 if item.ridden else 0.9)]
    if isinstance(item, Barrier) and item.kind != "fence":
        (x0, z0), (x1, z1) = item.start, item.end
        return [(np.array([[x0, 0, z0], [x1, 0, z1], [x1 + 0.2, 0, z1], [x0 + 0.2, 0, z0]]), item.height)]
    return []


def _square(x: float, z: float, r: float) -> np.ndarray:
    return np.array([[x - r, 0, z - r], [x + r, 0, z - r], [x + r, 0, z + r], [x - r, 0, z + r]])
