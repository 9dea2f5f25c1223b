"""Houses as lit boxes with textured fronts, pitched or flat roofs and chimneys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Bytes
from .facades import GROUND_EXTRA, PIXELS_PER_METRE, TALLEST, facade
from .label_ids import BUILDING
from .painter import Painter

Spot = tuple[float, float]  # ground position (x, z)
UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Building:
    """``start`` to ``end`` is the street front; ``back`` points from the street into the lot, a unit vector."""

    start: Spot
    end: Spot
    back: Spot
    deep: float
    floors: int
    style: str
    slot: int
    tint: tuple[float, float, float]
    roof: float  # rise of the ridge, 0 for a flat roof
    roof_color: tuple[float, float, float]
    chimneys: int

    @property
    def eaves(self) -> float:
        """Height of the front wall in meters."""
        return 3.0 * self.floors + GROUND_EXTRA

    def footprint(self) -> list[Spot]:
        """Corners: front start, front end, back end, back start."""
        dx, dz = self.back[0] * self.deep, self.back[1] * self.deep
        (x0, z0), (x1, z1) = self.start, self.end
        return [(x0, z0), (x1, z1), (x1 + dx, z1 + dz), (x0 + dx, z0 + dz)]

    def paint(self, painter: Painter) -> None:
        corners = self.footprint()
        middle = (corners[0][0] + corners[2][0]) / 2, (corners[0][1] + corners[2][1]) / 2
        reach = float(np.hypot(corners[0][0] - middle[0], corners[0][1] - middle[1]))
        if not painter.camera.sees(*middle, reach):
            return
        faces = []
        for k in range(4):
            a, b = corners[k], corners[(k + 1) % 4]
            normal = _outward(a, b, corners)
            if normal[0] * -a[0] + normal[2] * -a[1] <= 0:
                continue  # faces away from the camera, which stands at the origin
            faces.append((painter.camera.depth((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), k, a, b, normal))
        if self.roof > 0:
            self._paint_roof(painter, corners)
        for _, k, a, b, normal in sorted(faces, key=lambda face: -face[0]):
            image = self._front(painter, a, b, blank=k in (1, 3) and self.slot % 3 != 0)
            a, b = _left_to_right(painter, a, b)
            painter.wall(a, b, (0.0, self.eaves), image, BUILDING, painter.light.on(normal) * self.tint)

    def _front(self, painter: Painter, a: Spot, b: Spot, *, blank: bool) -> Bytes:
        """The image for one wall, at about the resolution in which it will be seen."""
        nearest = max(min(painter.camera.depth(*a), painter.camera.depth(*b)), 2.0)
        level = int(np.clip(np.log2(PIXELS_PER_METRE * nearest / painter.camera.focal), 0, 5))
        whole = facade(painter.domain, self.style, self.slot, level, blank)
        per_metre = whole.shape[0] / (3.0 * TALLEST[self.style] + GROUND_EXTRA)
        whole = whole[max(0, whole.shape[0] - round(self.eaves * per_metre)) :]
        return _cut_bays(whole, float(np.hypot(b[0] - a[0], b[1] - a[1])) * per_metre)

    def _paint_roof(self, painter: Painter, corners: list[Spot]) -> None:
        eaves = self.eaves
        fs, fe, be, bs = (np.array([x, eaves, z]) for x, z in corners)
        middle_start, middle_end = (fs + bs) / 2 + UP * self.roof, (fe + be) / 2 + UP * self.roof
        for share in np.linspace(0.1, 0.9, self.chimneys) if self.chimneys else ():
            self._paint_chimney(painter, middle_start + share * (middle_end - middle_start))
        inward = np.array([self.back[0], 0, self.back[1]])
        slope = UP * self.deep / 2 - inward * self.roof
        color = painter.lit(np.array(self.roof_color), slope / np.linalg.norm(slope))
        over = -0.3 * inward
        painter.flat(np.array([fs + over, fe + over, middle_end, middle_start]), color, BUILDING)
        dark = (color[0] * 0.85, color[1] * 0.85, color[2] * 0.85)
        for k in range(1, 6):
            low, high = k / 6, k / 6 + 0.03
            painter.flat(
                np.array([
                    fs + low * (middle_start - fs), fe + low * (middle_end - fe),
                    fe + high * (middle_end - fe), fs + high * (middle_start - fs),
                ]), dark, None,
            )  # fmt: skip
        for a, b, top in ((fs, bs, middle_start), (fe, be, middle_end)):
            gable = painter.lit(np.array(self.tint) * 120, _outward((a[0], a[2]), (b[0], b[2]), corners))
            painter.flat(np.array([a, b, top]), gable, BUILDING)

    def _paint_chimney(self, painter: Painter, at: np.ndarray) -> None:
        spot = painter.foot(float(at[0]), float(at[2]), float(at[1]))
        if spot is None:
            return
        x, y, scale, depth = spot
        half, top = 0.45 * scale, 1.4 * scale
        outline = np.array([[x - half, y + scale], [x - half, y - top], [x + half, y - top], [x + half, y + scale]])
        painter.canvas.fill(outline, painter.shaded(np.array([120.0, 84, 68])), BUILDING, depth)
        for shift in (-0.25, 0.25):
            pot = outline[1] + np.array([half + shift * scale, -0.15 * scale])
            painter.canvas.stroke(
                np.array([pot, pot + np.array([0, 0.3 * scale])]), (90, 60, 45), 0.25 * scale, BUILDING
            )


def _outward(a: Spot, b: Spot, corners: list[Spot]) -> np.ndarray:
    normal = np.array([b[1] - a[1], 0.0, a[0] - b[0]])
    normal /= max(float(np.linalg.norm(normal)), 1e-6)
    cx, cz = sum(c[0] for c in corners) / 4, sum(c[1] for c in corners) / 4
    away = (a[0] + b[0]) / 2 - cx, (a[1] + b[1]) / 2 - cz
    return normal if normal[0] * away[0] + normal[2] * away[1] > 0 else -normal


def _left_to_right(painter: Painter, a: Spot, b: Spot) -> tuple[Spot, Spot]:
    """Order two ends so that an image between them is not mirrored: by the side of the line of sight."""
    va, vb = painter.camera.view(np.array([[a[0], 0, a[1]], [b[0], 0, b[1]]]))
    return (a, b) if va[0] * vb[2] < vb[0] * va[2] else (b, a)


def _cut_bays(front: Bytes, columns: float) -> Bytes:
    """Repeat or cut a front to a wall's length."""
    wanted = max(2, round(columns))
    repeats = -(-wanted // front.shape[1])
    return np.tile(front, (1, repeats, 1))[:, :wanted]
