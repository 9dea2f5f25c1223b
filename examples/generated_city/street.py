"""The street's plan: where the carriageway, pavements, verges and crossings run, seen from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .statistics import DomainStatistics

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Street:
    """Offsets ``u`` are meters to the right of a curve through the camera; ``z`` is meters ahead."""

    style: str
    center: float
    half_width: float
    sidewalks: tuple[float, float]
    verges: tuple[float, float]
    curvature: float
    crossing: tuple[float, float] | None  # z of its middle, half width
    end: float | None  # z where the street meets another and stops
    lanes: int
    tram: bool
    markings: str  # white, worn or yellow edges
    zebra: bool
    median: bool

    def bend(self, z: Floats32 | float) -> Floats32:
        """Sideways position of the street's curve at z; straight beyond 70 m."""
        near = np.clip(z, 0, 70)
        return np.asarray(self.curvature * near * (np.asarray(z).clip(0) - near / 2), np.float32)

    def place(self, u: float, z: float) -> tuple[float, float]:
        """World ground position of a street position."""
        return u + float(self.bend(z)), z

    def heading(self, z: float) -> float:
        """Direction of the street at z."""
        return float(np.arctan(self.curvature * np.clip(z, 0, 70)))

    def kerb(self, side: int) -> float:
        """Offset of the left (-1) or right (1) edge of the carriageway."""
        return self.center + side * self.half_width

    def lot(self, side: int) -> float:
        """Offset where pavement ends and lots begin."""
        k = (side + 1) // 2
        return self.kerb(side) + side * (self.verges[k] + self.sidewalks[k])

    def is_crossed(self, z: float, margin: float = 0.0) -> bool:
        """Whether z lies in the side street or beyond the end."""
        if self.end is not None and z > self.end - margin:
            return True
        return self.crossing is not None and abs(z - self.crossing[0]) < self.crossing[1] + margin


def sample_street(rng: np.random.Generator, stats: DomainStatistics, *, turned: bool) -> Street:
    """One street of this city; ``turned`` views need a side street close by to look into."""
    style = str(rng.choice(list(stats.styles), p=list(stats.styles.values())))
    half = rng.uniform(*stats.road_width) / 2
    if style == "residential":
        half *= 0.85
    lane = half * rng.uniform(0.3, 0.6) * (1 if rng.random() < 0.5 else -1)
    sidewalks = (rng.uniform(*stats.sidewalk_width), rng.uniform(*stats.sidewalk_width))
    verge_share = stats.verge_share * (1.7 if style in ("green", "residential") else 0.5)
    verges = tuple(float(rng.uniform(0.8, 4.0)) if rng.random() < verge_share else 0.0 for _ in range(2))
    curvature = rng.normal(0, 0.006) if rng.random() < stats.curve_share else 0.0
    crossing = None
    if turned or rng.random() < stats.crossing_share:
        middle = rng.uniform(9, 20) if turned else rng.uniform(14, 60)
        crossing = (float(middle), float(rng.uniform(3.5, 6.5)))
    end = float(rng.uniform(28, 70)) if rng.random() < stats.junction_end_share else None
    if end is not None and crossing is not None and crossing[0] + 20 > end:
        end = None
    return Street(
        style, lane, half, sidewalks, (verges[0], verges[1]), float(curvature), crossing, end,
        2 if half < 5 else 4, rng.random() < stats.tram_share and half > 4.2,
        str(rng.choice(["white", "worn", "yellow"], p=[0.55, 0.3, 0.15])), rng.random() < 0.45,
        half > 5.5 and rng.random() < 0.3,
    )  # fmt: skip
