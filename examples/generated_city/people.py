"""Pedestrians and two-wheelers with their riders, as jointed figures facing the camera at their depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .label_ids import BICYCLE, MOTORCYCLE, PERSON, RIDER
from .painter import Painter

Points = NDArray[np.float64]
SKIN = [(236, 190, 160), (210, 160, 125), (160, 110, 80), (100, 68, 50), (224, 172, 140)]
CLOTHES = {
    "game": [(25, 28, 35), (40, 50, 80), (180, 40, 40), (220, 215, 205), (90, 90, 95), (60, 90, 60), (200, 160, 60),
             (110, 60, 90), (50, 90, 150), (20, 20, 22), (30, 30, 34), (140, 120, 95), (210, 225, 40),
             (34, 32, 40), (48, 44, 44), (28, 36, 60)],
    "camera": [(30, 32, 36), (52, 54, 60), (70, 66, 62), (40, 46, 62), (96, 92, 84), (88, 44, 44), (130, 130, 126)],
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """A walker or stander; ``seed`` decides body, clothes and step."""

    x: float
    z: float
    height: float
    seed: int

    def paint(self, painter: Painter) -> None:
        spot = painter.foot(self.x, self.z)
        if spot is None:
            return
        column, row, scale, depth = spot
        rng = np.random.default_rng([41, self.seed])
        figure = _Figure(painter, PERSON, column, row, scale * self.height, depth, rng)
        step = rng.uniform(-0.13, 0.13)
        figure.legs((step, -step), lift=abs(step) * 0.3)
        figure.torso_and_head(swing=-step * 1.1, skirt=rng.random() < 0.2)
        if rng.random() < 0.3:
            side = 1 if rng.random() < 0.5 else -1
            figure.patch([(side * 0.1, 0.42), (side * 0.2, 0.42), (side * 0.2, 0.58), (side * 0.1, 0.58)], figure.bag)


class _Figure:
    """Limbs of one figure in units of its height, foot point at (0, 0), up positive."""

    def __init__(
        self,
        painter: Painter,
        label: int,
        column: float,
        row: float,
        size: float,
        depth: float,
        rng: np.random.Generator,
    ) -> None:
        self.painter, self.label, self.depth, self.size = painter, label, depth, size
        self.origin = np.array([column, row])
        self.rng = rng
        clothes = CLOTHES[painter.domain]

        def pick(options: list[tuple[int, int, int]]) -> Points:
            return np.array(options[int(rng.integers(len(options)))], float) * rng.uniform(0.7, 1.2)

        self.skin, self.coat, self.trousers, self.bag = pick(SKIN), pick(clothes), pick(clothes) * 0.8, pick(clothes)
        self.hair = np.array([45.0, 34, 26]) * rng.uniform(0.4, 2.5)
        self.lit_side = 1.0 if painter.light.to_sun[0] > 0 else -1.0
        self.build = rng.uniform(0.85, 1.2)

    def at(self, points: list[tuple[float, float]]) -> Points:
        return np.asarray(self.origin + np.array(points) * np.array([self.size, -self.size]))

    def limb(self, points: list[tuple[float, float]], thick: float, color: Points) -> None:
        """A limb, with its unlit side darker."""
        canvas, line = self.painter.canvas, self.at(points)
        canvas.stroke(line, self.painter.shaded(color, 0.72), thick * self.size, self.label, self.depth)
        if self.size > 30:
            shift = np.array([self.lit_side * thick * self.size * 0.22, 0])
            canvas.stroke(line + shift, self.painter.shaded(color, 1.08), thick * self.size * 0.5, None)

    def patch(self, points: list[tuple[float, float]], color: Points, share: float = 1.0) -> None:
        self.painter.canvas.fill(self.at(points), self.painter.shaded(color, share), self.label, self.depth)

    def legs(self, steps: tuple[float, float], lift: float) -> None:
        for k, step in enumerate(steps):
            hip = 0.045 * (1 if k else -1)
            knee = (hip + step * 0.6, 0.26)
            foot = (hip * 0.8 + step, 0.03 + (lift if k else 0))
            self.limb([(hip, 0.5), knee, foot], 0.085 * self.build, self.trousers * (1.0 if k else 0.8))
            self.limb([foot, (foot[0] + 0.035, foot[1] - 0.01)], 0.05, np.array([30.0, 26, 24]))

    def torso_and_head(self, swing: float, *, skirt: bool = False, lean: float = 0.0, raise_by: float = 0.0) -> None:
        w, up = 0.115 * self.build, raise_by
        arms = ((-1, swing), (1, -swing))
        self.limb(
            [(-w * 0.95 + lean, 0.79 + up), (-w * 1.15 + arms[0][1] * 0.5, 0.62 + up), (-w + arms[0][1], 0.48 + up)],
            0.058,
            self.coat * 0.85,
        )
        hem = 0.32 if skirt else 0.46
        outline = [
            (-w + lean, 0.82 + up),
            (w + lean, 0.82 + up),
            (w * 1.02, 0.6 + up),
            (w * (1.1 if skirt else 0.9), hem + up),
            (-w * (1.1 if skirt else 0.9), hem + up),
            (-w * 1.02, 0.6 + up),
        ]
        self.patch(outline, self.coat, 0.8)
        half = [
            (0.2 * w * self.lit_side + lean, 0.82 + up),
            (w * self.lit_side + lean, 0.82 + up),
            (w * 0.9 * self.lit_side, hem + up),
            (0.3 * w * self.lit_side, hem + up),
        ]
        self.painter.canvas.fill(self.at(half), self.painter.shaded(self.coat, 1.1), None)
        self.limb(
            [(w * 0.95 + lean, 0.79 + up), (w * 1.15 + arms[1][1] * 0.5, 0.62 + up), (w + arms[1][1], 0.48 + up)],
            0.058,
            self.coat,
        )
        self.limb([(lean, 0.82 + up), (lean, 0.88 + up)], 0.06, self.skin * 0.85)
        turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        head = [(lean * 1.2 + 0.055 * float(np.cos(a)), 0.925 + up + 0.072 * float(np.sin(a))) for a in turn]
        self.patch(head, self.hair)
        if self.rng.random() < 0.6:  # the face is seen
            face = [(lean * 1.2 + 0.045 * float(np.cos(a)), 0.912 + up + 0.055 * float(np.sin(a))) for a in turn]
            self.patch(face, self.skin)


@dataclass(frozen=True)
class Cycle:
    """A bicycle or motorcycle, parked or ridden; ``heading`` as for vehicles."""

    kind: str
    x: float
    z: float
    heading: float
    ridden: bool
    seed: int

    def paint(self, painter: Painter) -> None:
        rng = np.random.default_rng([43, self.seed])
        motor = self.kind == "motorcycle"
        label = MOTORCYCLE if motor else BICYCLE
        spot = painter.foot(self.x, self.z)
        if spot is None:
            return
        color = np.array([rng.uniform(20, 200), rng.uniform(20, 140), rng.uniform(20, 160)])
        if painter.domain == "camera":
            color = color * 0.4 + 40
        self._paint_wheels(painter, label, motor, spot[2])
        frame = self._world(np.array([[-0.5, 0.35], [-0.15, 0.82], [0.4, 0.85], [0.0, 0.35]]))
        outline = painter.camera.polygon(frame)
        if outline is not None:
            if motor:
                body = self._world(
                    np.array(
                        [[-0.75, 0.6], [-0.7, 0.85], [0.1, 0.8], [0.45, 0.95], [0.55, 0.7], [0.2, 0.3], [-0.4, 0.3]]
                    )
                )
                painter.flat(body, painter.shaded(color), label)
                painter.flat(
                    self._world(np.array([[-0.3, 0.3], [-0.3, 0.6], [0.25, 0.6], [0.2, 0.3]])),
                    painter.shaded(np.array([48.0, 48, 50])),
                    label,
                )
            painter.canvas.stroke(
                np.concatenate([outline[0], outline[0][:1]]), painter.shaded(color), 0.06 * spot[2], label, outline[1]
            )
            for bar in ([[-0.15, 0.8], [-0.2, 0.98]], [[0.4, 0.85], [0.36, 1.05]], [[0.52, 0.35], [0.38, 0.95]]):
                ends = painter.camera.polygon(self._world(np.array([*bar, bar[1]])))
                if ends is not None:
                    painter.canvas.stroke(ends[0], painter.shaded(color * 0.7), 0.05 * spot[2], label, ends[1])
        side = np.array([-np.cos(self.heading), np.sin(self.heading)]) * 0.3
        for end in (-1, 1):  # handlebar seen from the front or rear
            bar_foot = painter.foot(
                self.x + 0.36 * np.sin(self.heading) + end * side[0],
                self.z + 0.36 * np.cos(self.heading) + end * side[1],
                1.05,
            )
            if bar_foot is not None and not motor:
                center = painter.foot(self.x + 0.36 * np.sin(self.heading), self.z + 0.36 * np.cos(self.heading), 1.05)
                if center is not None:
                    line = np.array([[bar_foot[0], bar_foot[1]], [center[0], center[1]]])
                    painter.canvas.stroke(line, (30, 30, 32), 0.045 * spot[2], label, center[3])
        if self.ridden:
            self._paint_rider(painter, rng, spot)

    def _world(self, local: Points) -> Points:
        """(forward, up) in the plane of the wheels to world coordinates."""
        return np.stack(
            [self.x + local[:, 0] * np.sin(self.heading), local[:, 1], self.z + local[:, 0] * np.cos(self.heading)],
            axis=1,
        )

    def _paint_wheels(self, painter: Painter, label: int, motor: bool, scale: float) -> None:
        turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        for at in (-0.52, 0.52):
            radius = 0.31 if motor else 0.34
            rim = self._world(np.stack([at + radius * np.cos(turn), radius + radius * np.sin(turn)], axis=1))
            outline = painter.camera.polygon(rim)
            if outline is None:
                continue
            pixels, depth = outline
            if motor:
                painter.canvas.fill(pixels, (24, 24, 26), label, depth)
            else:  # one sees through the spokes, but annotators fill the wheel
                painter.canvas.label_only(pixels, label)
                painter.canvas.stroke(np.concatenate([pixels, pixels[:1]]), (26, 26, 28), 0.055 * scale, label, depth)
            width = (0.16 if motor else 0.06) * scale  # seen end on, a wheel is as wide as its tyre
            upright = np.array([[pixels[:, 0].mean(), pixels[:, 1].min()], [pixels[:, 0].mean(), pixels[:, 1].max()]])
            if np.ptp(pixels[:, 0]) < 2 * width:
                painter.canvas.stroke(upright, (26, 26, 28), width, label, depth)

    def _paint_rider(self, painter: Painter, rng: np.random.Generator, spot: tuple[float, float, float, float]) -> None:
        column, row, scale, depth = spot
        figure = _Figure(painter, RIDER, column, row, scale * rng.uniform(1.62, 1.85), depth, rng)
        across = float(np.cos(painter.camera.yaw + self.heading))
        sideways = float(np.sin(self.heading + painter.camera.yaw))
        sway = rng.uniform(0.0, 0.12)
        for k, lift in ((0, sway), (1, 0.12 - sway)):
            hip = 0.05 * (1 if k else -1) * abs(across)
            figure.limb(
                [(hip - 0.14 * sideways, 0.56), (hip * 1.6 + 0.07 * sideways, 0.36 + lift), (hip * 1.3, 0.12 + lift)],
                0.085,
                figure.trousers,
            )
        lean = 0.16 * sideways
        figure.torso_and_head(swing=0.16 * sideways, lean=lean, raise_by=0.08)
        if rng.random() < 0.6:
            turn = np.linspace(0, np.pi, 8)
            helmet = [(lean * 1.2 + 0.066 * float(np.cos(a)), 1.015 + 0.075 * float(np.sin(a))) for a in turn]
            figure.patch(helmet, figure.bag)
