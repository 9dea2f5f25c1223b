"""What stands beside the road: trees, poles, lamps, lights, signs, fences, walls, hedges, litter bins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .canvas import Bytes
from .foliage import SIZE, tree
from .label_ids import FENCE, POLE, STATIC, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, WALL
from .noise import noise_patch
from .painter import Painter

Spot = tuple[float, float]


@dataclass(frozen=True)
class Tree:
    """A tree or bush of a library image; ``tint`` varies it."""

    x: float
    z: float
    height: float
    width: float
    kind: str
    slot: int
    tint: tuple[float, float, float]

    def paint(self, painter: Painter) -> None:
        spot = painter.foot(self.x, self.z)
        if spot is None:
            return
        column, row, scale, depth = spot
        half = self.width * scale / 2
        if column + half < 0 or column - half > painter.camera.width:
            return
        level = int(np.clip(np.log2(SIZE / max(self.height * scale, 1.0)), 0, 5))
        image = tree(painter.domain, self.kind, self.slot // 2, level, bool(self.slot % 2))
        gain = (painter.light.ambient + 0.6 * painter.light.sun) * self.tint
        box = (column - half, row - self.height * scale, column + half, row)
        painter.canvas.sprite(box, image, VEGETATION, depth, gain)


@dataclass(frozen=True)
class Pole:
    """A post; ``arm`` reaches out over the road (meters, signed), ``lamp`` ends it with a lantern."""

    x: float
    z: float
    height: float
    thick: float
    arm: float
    lamp: bool
    color: tuple[float, float, float]

    def paint(self, painter: Painter) -> None:
        spot = painter.foot(self.x, self.z)
        if spot is None:
            return
        column, row, scale, depth = spot
        top, width = row - self.height * scale, max(self.thick * scale, 2.0)
        lit = painter.shaded(np.array(self.color), 1.1)
        dark = painter.shaded(np.array(self.color), 0.6)
        canvas = painter.canvas
        canvas.stroke(np.array([[column, row], [column, top]]), dark, width, POLE, depth)
        if width > 3:
            side = width * 0.2 * (1 if painter.light.to_sun[0] > 0 else -1)
            canvas.stroke(np.array([[column + side, row], [column + side, top]]), lit, width * 0.5, None)
        if self.arm:
            end = column + self.arm * scale
            bend = np.array(
                [[column, top + 0.5 * scale], [column + 0.1 * (end - column), top], [end, top - 0.25 * scale]]
            )
            canvas.stroke(bend, dark, max(width * 0.7, 2), POLE, depth)
            if self.lamp:
                tip = np.array([[end, top - 0.25 * scale], [end + 0.5 * np.sign(self.arm) * scale, top - 0.2 * scale]])
                canvas.stroke(tip, lit, 0.2 * scale, POLE, depth)
        elif self.lamp:
            canvas.stroke(np.array([[column, top], [column, top - 0.4 * scale]]), lit, 0.35 * scale, POLE, depth)


@dataclass(frozen=True)
class TrafficLight:
    """A signal head hung at a height, with its post unless it hangs from an arm."""

    x: float
    z: float
    height: float
    post: bool
    state: int
    away: bool

    def paint(self, painter: Painter) -> None:
        if self.post:
            Pole(self.x, self.z, self.height + 0.1, 0.12, 0.0, False, (70, 72, 70)).paint(painter)
        spot = painter.foot(self.x, self.z, self.height)
        if spot is None:
            return
        column, row, scale, depth = spot
        half, tall, spot_at = 0.19 * scale, 1.0 * scale, np.array([column, row])
        box = np.array([[-half, 0], [half, 0], [half, -tall], [-half, -tall]]) + spot_at
        back = np.array([[-1.5, 1], [1.5, 1], [1.5, -1], [-1.5, -1]]) * [half, 0.08 * scale] + spot_at
        back[2:, 1] -= tall
        painter.canvas.fill(back, painter.shaded(np.array([26.0, 28, 28])), TRAFFIC_LIGHT, depth)
        painter.canvas.fill(box, painter.shaded(np.array([48.0, 50, 48])), TRAFFIC_LIGHT, depth)
        if self.away:
            return
        lamps = ((60, 22, 18), (64, 50, 16), (20, 54, 28))
        bright = ((255, 50, 30), (255, 190, 40), (60, 255, 150))
        for k in range(3):
            center = np.array([[column, row - tall * (0.83 - 0.33 * k)]])
            tone = bright[k] if k == self.state else lamps[k]
            painter.canvas.stroke(np.repeat(center, 2, axis=0), tone, 0.26 * scale, None)


SIGN_SHAPES = ("disc", "ring", "triangle", "square", "board", "arrow", "back")


@dataclass(frozen=True)
class Sign:
    """A traffic sign on its own post at ``height``."""

    x: float
    z: float
    height: float
    size: float
    shape: str
    post: bool
    seed: int

    def paint(self, painter: Painter) -> None:
        if self.post:
            Pole(self.x, self.z, self.height + self.size / 2, 0.07, 0.0, False, (128, 130, 130)).paint(painter)
        spot = painter.foot(self.x, self.z, self.height)
        if spot is None:
            return
        column, row, scale, depth = spot
        rng, half = np.random.default_rng([47, self.seed]), self.size * scale / 2
        turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        disc = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        square = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
        wide = float(rng.uniform(1.4, 2.4))
        outlines = {
            "disc": disc,
            "ring": disc,
            "triangle": np.array([[0, -1.05], [1.1, 0.85], [-1.1, 0.85]]),
            "square": square,
            "board": square * [wide, 1],
            "arrow": square * [0.7, 1.2],
            "back": disc if rng.random() < 0.5 else square,
        }
        blue, red, white, gray = (30.0, 70, 165), (190.0, 30, 35), (235.0, 235, 230), (120.0, 122, 122)
        green, yellow = (20.0, 100, 70), (235.0, 190, 40)
        faces = {
            "disc": (blue, white),
            "ring": (red, white),
            "triangle": (red, white),
            "square": (blue, white),
            "board": ((blue, green, white, yellow)[int(rng.integers(4))], white),
            "arrow": (blue, white),
            "back": (gray, gray),
        }
        outer, inner = faces[self.shape]
        outline = outlines[self.shape]
        place = np.array([column, row])
        canvas = painter.canvas
        canvas.fill(place + outline * half, painter.shaded(np.array(outer), 1.05), TRAFFIC_SIGN, depth)
        if self.shape in ("ring", "triangle"):
            shift = np.array([0.0, 0.12]) if self.shape == "triangle" else 0.0
            canvas.fill(place + (outline * 0.66 + shift) * half, painter.shaded(np.array(inner), 1.05), None)
        mark = painter.shaded(np.array(white if self.shape in ("disc", "square", "board", "arrow") else (25.0, 25, 25)))
        for _ in range(int(rng.integers(1, 4)) if self.shape != "back" else 0):
            a = outline.min(axis=0) * 0.6 + rng.random(2) * np.ptp(outline, axis=0) * 0.5
            b = a + np.array([0.8, 0.0] if self.shape == "board" else [0.0, 0.35])
            canvas.stroke(place + np.array([a, b]) * half * 0.8, mark, 0.16 * half, None)


@dataclass(frozen=True)
class Barrier:
    """A wall, fence or hedge along the ground from ``start`` to ``end``."""

    kind: str
    start: Spot
    end: Spot
    height: float
    slot: int
    tint: tuple[float, float, float]

    def paint(self, painter: Painter) -> None:
        a, b = self.start, self.end
        va, vb = painter.camera.view(np.array([[a[0], 0, a[1]], [b[0], 0, b[1]]]))
        if va[0] * vb[2] > vb[0] * va[2]:
            a, b = b, a
        length = float(np.hypot(b[0] - a[0], b[1] - a[1]))
        if self.kind == "fence":
            self._paint_bars(painter, a, b, length)
            return
        normal = np.array([b[1] - a[1], 0.0, a[0] - b[0]]) / max(length, 1e-6)
        if normal[0] * -a[0] + normal[2] * -a[1] < 0:
            normal = -normal
        gain = painter.light.on(normal) * self.tint
        label = WALL if self.kind == "wall" else VEGETATION
        image = barrier_image(painter.domain, self.kind, self.slot)
        count = max(1, round(length / 4))
        painter.wall(a, b, (0.0, self.height), np.concatenate([image] * min(count, 6), axis=1), label, gain)
        if self.kind == "wall":
            top = np.array(
                [
                    [a[0], self.height, a[1]],
                    [b[0], self.height, b[1]],
                    [b[0], self.height + 0.1, b[1]],
                    [a[0], self.height + 0.1, a[1]],
                ]
            )
            painter.flat(top, painter.shaded(np.array([165.0, 160, 150])), WALL)

    def _paint_bars(self, painter: Painter, a: Spot, b: Spot, length: float) -> None:
        h = self.height
        corners = np.array([[a[0], 0, a[1]], [b[0], 0, b[1]], [b[0], h, b[1]], [a[0], h, a[1]]])
        outline = painter.camera.polygon(corners)
        if outline is None:
            return
        painter.canvas.label_only(outline[0], FENCE)  # one sees through, the annotation does not
        tone = painter.shaded(np.array(self.tint) * 90)
        gap = (0.16, 0.4, 1.6, 2.0)[self.slot % 4]
        solid = self.slot % 4 == 1  # boards rather than bars
        for k in range(int(min(length / gap, 160)) + 1):
            share = min(k * gap / length, 1.0)
            x, z = a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
            spot = painter.foot(x, z)
            if spot is None:
                continue
            line = np.array([[spot[0], spot[1]], [spot[0], spot[1] - h * spot[2]]])
            painter.canvas.stroke(line, tone, (0.3 if solid else 0.045) * spot[2], FENCE, spot[3])
        for y in (0.15, 0.55, 1.0) if gap > 1 else (0.12, 0.95):
            rail = np.array(
                [
                    [a[0], y * h - 0.03, a[1]],
                    [b[0], y * h - 0.03, b[1]],
                    [b[0], y * h + 0.03, b[1]],
                    [a[0], y * h + 0.03, a[1]],
                ]
            )
            painter.flat(rail, tone, FENCE)


@lru_cache(maxsize=64)
def barrier_image(domain: str, kind: str, slot: int) -> Bytes:
    """Four meters of wall or hedge."""
    rng = np.random.default_rng([61, 1 if domain == "game" else 2, len(kind), slot])
    height, width = 64, 128
    if kind == "hedge":
        leaf = np.array([66.0, 98, 44]) if domain == "game" else np.array([58.0, 70, 48])
        texture = 1 + 0.3 * noise_patch(rng, height, width, 0.5) + 0.2 * noise_patch(rng, height, width, 1.2)
        texture *= np.linspace(1.25, 0.65, height, dtype=np.float32)[:, None]
        return (leaf * rng.uniform(0.6, 1.2) * texture[:, :, None]).clip(0, 255).astype(np.uint8)
    colors = [(150, 84, 62), (168, 160, 148), (198, 190, 176), (120, 112, 104)]
    color: NDArray[np.float64] = np.array(colors[int(rng.integers(4))], float)
    if domain == "camera":
        color = 0.35 * color + 92
    texture = 1 + 0.07 * noise_patch(rng, height, width, 0.6) + 0.07 * noise_patch(rng, height, width, 1.4)
    if slot % 2 == 0:
        stones = rng.normal(1, 0.1, (16, 16)).astype(np.float32)
        texture = texture * np.repeat(np.repeat(stones, 4, 0), 8, 1)
        texture[3::4] *= 0.85
    return (color * texture[:, :, None]).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Bin:
    """A litter bin or switch box: annotated as static, which no class trains on."""

    x: float
    z: float
    height: float
    color: tuple[float, float, float]

    def paint(self, painter: Painter) -> None:
        spot = painter.foot(self.x, self.z)
        if spot is None:
            return
        column, row, scale, depth = spot
        half, tall, spot_at = 0.28 * scale, self.height * scale, np.array([column, row])
        box = np.array([[-half, 0], [half, 0], [half, -tall], [-half, -tall]]) + spot_at
        painter.canvas.fill(box, painter.shaded(np.array(self.color)), STATIC, depth)
        lid = np.array([[-half, -tall * 0.9], [half, -tall * 0.9], [half, -tall], [-half, -tall]]) + spot_at
        painter.canvas.fill(lid, painter.shaded(np.array(self.color), 1.4), None)
