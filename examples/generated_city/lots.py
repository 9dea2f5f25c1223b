"""What lines the street behind the pavement: rows of houses, gardens, parks, walls, fences, hedges, skyline."""

from __future__ import annotations

import numpy as np

from .buildings import Building
from .facades import SLOTS, TALLEST
from .painter import Paintable
from .roadside import Barrier, Tree
from .statistics import DomainStatistics
from .street import Street

Placed = tuple[int, float, float, Paintable]  # layer, x, z, object; higher layers paint later
SKYLINE, BACK_ROW, GARDEN, FRONT_ROW, BORDER = range(5)
ROOFS = [(120, 62, 48), (92, 70, 62), (76, 78, 86), (140, 88, 66), (64, 60, 60)]


def sample_lots(rng: np.random.Generator, stats: DomainStatistics, street: Street) -> list[Placed]:
    """Both sides of the street, the ends of side streets, and the skyline where nothing else stands."""
    placed = _skyline(rng, stats)
    for side in (-1, 1):
        placed += _side(rng, stats, street, side)
    if street.crossing is not None:
        placed += _facing_row(rng, stats, street, street.crossing[0] + street.crossing[1] + 4, gap=True)
    if street.end is not None:
        placed += _facing_row(rng, stats, street, street.end + 14, gap=False)
    return placed


def sample_building(
    rng: np.random.Generator,
    stats: DomainStatistics,
    style: str,
    ends: tuple[tuple[float, float], tuple[float, float]],
    back: tuple[float, float],
) -> Building:
    """A house on a street front."""
    floors = min(int(rng.integers(stats.floors[style][0], stats.floors[style][1] + 1)), TALLEST[style])
    pitched = rng.random() < {"center": 0.5, "residential": 0.95, "green": 0.5, "modern": 0.0}[style]
    tint = rng.uniform(0.7, 1.55 if stats.name == "game" else 1.2) * (
        1 + rng.normal(0, 0.05 if stats.name == "game" else 0.02, 3)
    )
    roof = ROOFS[int(rng.integers(len(ROOFS)))]
    return Building(
        ends[0],
        ends[1],
        back,
        float(rng.uniform(8, 14)),
        floors,
        style,
        int(rng.integers(SLOTS)),
        (float(tint[0]), float(tint[1]), float(tint[2])),
        float(rng.uniform(2, 4.5)) if pitched else 0.0,
        roof,
        int(rng.integers(0, 4)) if pitched and stats.name == "game" else 0,
    )


def _side(rng: np.random.Generator, stats: DomainStatistics, street: Street, side: int) -> list[Placed]:
    placed: list[Placed] = []
    z, edge = -12.0, street.lot(side)
    set_back = {"center": 0.0, "residential": 5.0, "green": 6.0, "modern": 2.0}[street.style] * rng.uniform(0.5, 1.6)
    green_share = {"center": 0.06, "residential": 0.15, "green": 0.5, "modern": 0.2}[street.style]
    border = str(rng.choice(["none", "fence", "wall", "hedge"], p=_border_shares(stats, street.style)))
    slot, height = int(rng.integers(16)), float(rng.uniform(0.8, 1.8))
    while z < 150:
        if street.end is not None and z > street.end:
            break
        wide = float(rng.uniform(7, 20))
        if street.is_crossed(z + wide / 2, wide / 2 + 2):
            z += 3.0 if not street.is_crossed(z, 2) else 2.0
            continue
        green = rng.random() < green_share
        if green:
            placed += _garden(rng, stats, street, side, z, wide, deep=14)
            kind = border if border != "none" else str(rng.choice(["fence", "hedge", "wall", "none"]))
        else:
            offset = edge + side * set_back
            ends = street.place(offset, z), street.place(offset, z + wide)
            house = sample_building(rng, stats, street.style, ends, _across(street, z + wide / 2, side))
            placed.append((FRONT_ROW, *_middle(house.start, house.end), house))
            if set_back > 2.5:
                placed += _garden(rng, stats, street, side, z, wide, deep=set_back, rate=0.4)
            kind = border if set_back > 1.5 else "none"
        if kind != "none":
            for part in range(3):
                a = street.place(edge + side * 0.1, z + wide * part / 3)
                b = street.place(edge + side * 0.1, z + wide * (part + 1) / 3)
                tint = rng.uniform(0.3, 1.3) if kind == "fence" else rng.uniform(0.85, 1.15)
                tall = height if kind != "hedge" else height * 1.3
                placed.append((BORDER, *_middle(a, b), Barrier(kind, a, b, tall, slot, (tint, tint, tint))))
        z += wide + (0.0 if street.style == "center" else float(rng.uniform(0, 4)))
    return placed


def _border_shares(stats: DomainStatistics, style: str) -> list[float]:
    if style == "center":
        return [0.7, 0.2, 0.1, 0.0]
    fence, wall = stats.fence_share, stats.wall_share
    return (
        [max(0.0, 0.8 - fence - wall), fence, wall, 0.2]
        if fence + wall <= 0.8
        else [0.0, fence, wall, 1 - fence - wall]
    )


def _garden(
    rng: np.random.Generator,
    stats: DomainStatistics,
    street: Street,
    side: int,
    z: float,
    wide: float,
    deep: float,
    rate: float = 1.0,
) -> list[Placed]:
    """Trees and bushes between the pavement and whatever is behind."""
    placed: list[Placed] = []
    for _ in range(int(rng.poisson(rate * wide * deep / 18))):
        u = street.lot(side) + side * rng.uniform(1.0, max(deep, 1.5))
        at = street.place(u, z + rng.uniform(0, wide))
        bush = rng.random() < 0.4
        item = sample_tree(rng, stats, at, bush=bush, scale=1.0 if deep > 8 else 0.6)
        placed.append((GARDEN if deep > 8 else BORDER, *at, item))
    return placed


def sample_tree(
    rng: np.random.Generator,
    stats: DomainStatistics,
    at: tuple[float, float],
    *,
    bush: bool = False,
    scale: float = 1.0,
) -> Tree:
    """One tree or bush of this city."""
    if bush:
        height = rng.uniform(0.8, 2.6)
        kind, width = "bush", height * rng.uniform(1.0, 2.0)
    else:
        pick = rng.random()
        kind = "bare" if pick < stats.bare_tree_share else "leafy"
        if pick > 1 - stats.conifer_share:
            kind = "conifer"
        height = rng.uniform(5, 13) * scale
        width = height * (rng.uniform(0.4, 0.6) if kind == "conifer" else rng.uniform(0.75, 1.1))
    gray = (
        rng.uniform(0, 0.7) if stats.name == "game" and kind != "bare" else 0.0
    )  # leaves reach from lush to winter gray
    tint = rng.uniform(0.6, 1.5) * (1 + rng.normal(0, 0.07, 3)) * (1 + gray * np.array([0.2, -0.05, 0.45]))
    return Tree(
        at[0],
        at[1],
        float(height),
        float(width),
        kind,
        int(rng.integers(stats.tree_library)),
        (float(tint[0]), float(tint[1]), float(tint[2])),
    )


def _facing_row(
    rng: np.random.Generator, stats: DomainStatistics, street: Street, z: float, *, gap: bool
) -> list[Placed]:
    """Houses along the far side of a side street, which face the camera; ``gap`` leaves the main street open."""
    placed: list[Placed] = []
    middle = float(street.bend(z)) + street.center
    open_half = street.half_width + max(street.sidewalks) + max(street.verges) + 10
    for side in (-1, 1):
        x = open_half if gap else 0.0
        while x < 75:
            wide = float(rng.uniform(8, 20))
            a, b = (middle + side * x, z), (middle + side * (x + wide), z)
            if rng.random() < 0.72:
                placed.append(
                    (
                        BACK_ROW if gap else FRONT_ROW,
                        *_middle(a, b),
                        sample_building(rng, stats, street.style, (a, b), (0.0, 1.0)),
                    )
                )
            else:
                for _ in range(int(rng.integers(2, 6))):
                    at = (a[0] + side * rng.uniform(0, wide), z + rng.uniform(0, 6))
                    placed.append((GARDEN, *at, sample_tree(rng, stats, at, bush=rng.random() < 0.3)))
            x += wide
    return placed


def _skyline(rng: np.random.Generator, stats: DomainStatistics) -> list[Placed]:
    """Far trees and blocks that close the view."""
    placed: list[Placed] = []
    for x in np.arange(-260, 260, 11.0):
        z = float(rng.uniform(155, 230))
        if rng.random() < 0.55:
            for _ in range(2):
                at = (float(x + rng.uniform(-6, 6)), z)
                tree = sample_tree(rng, stats, at, scale=1.3)
                placed.append((SKYLINE, *at, tree))
        elif rng.random() < 0.7:
            ends = (float(x - 8), z), (float(x + 8), z)
            placed.append((SKYLINE, float(x), z, sample_building(rng, stats, "green", ends, (0.0, 1.0))))
    return placed


def _across(street: Street, z: float, side: int) -> tuple[float, float]:
    turn = street.heading(z)
    return side * float(np.cos(turn)), -side * float(np.sin(turn))


def _middle(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
