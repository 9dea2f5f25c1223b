"""What drives and parks on the carriageway: cars nose to tail at the kerb, lanes of traffic, riders, trams."""

from __future__ import annotations

import numpy as np

from .painter import Paintable
from .people import Cycle
from .statistics import DomainStatistics
from .street import Street
from .vehicles import Vehicle

Placed = tuple[float, float, Paintable]
SEEDS = 1 << 30
LENGTHS = {"truck": 10.0, "bus": 12.5, "tram": 28.0, "van": 5.3}


def sample_traffic(rng: np.random.Generator, stats: DomainStatistics, street: Street) -> list[Placed]:
    """Everything with wheels."""
    placed: list[Placed] = []
    if street.tram:
        side = 1 if rng.random() < 0.5 else -1
        z = float(rng.uniform(22, 50))
        at = street.place(street.center + side * 1.65, z)
        placed.append(
            (
                at[0],
                at[1] - 8,
                _vehicle(rng, stats, "tram", at, street.heading(z) + (0.0 if _is_ours(street, side) else np.pi)),
            )
        )
    for side in (-1, 1):
        parked = rng.random() < stats.parked_share and street.half_width > 3.6
        if parked:
            placed += _parked(rng, stats, street, side)
        placed += _lane(rng, stats, street, side, parked=parked)
        for _ in range(int(rng.poisson(stats.rider_rate / 2))):
            z = float(5 + 45 * rng.random() ** 1.3)
            inside = 2.3 if parked else rng.uniform(0.6, 1.2)
            at = street.place(street.kerb(side) - side * inside, z)
            kind = "bicycle" if rng.random() < 0.72 else "motorcycle"
            heading = street.heading(z) + (0 if _is_ours(street, side) else np.pi) + rng.normal(0, 0.3)
            placed.append((*at, Cycle(kind, *at, float(heading), True, int(rng.integers(SEEDS)))))
    placed += _cross_traffic(rng, stats, street)
    return _without_collisions(placed)


def _without_collisions(placed: list[Placed]) -> list[Placed]:
    """Drop whatever would stand inside something placed before it."""
    kept: list[Placed] = []
    boxes: list[tuple[float, float, float, float]] = []
    for entry in placed:
        item = entry[2]
        if not isinstance(item, Vehicle | Cycle):
            continue
        long, wide = (1.9, 0.7) if isinstance(item, Cycle) else (LENGTHS.get(item.kind, 4.6), 1.85)
        sin, cos = abs(np.sin(item.heading)), abs(np.cos(item.heading))
        half_x, half_z = (long * sin + wide * cos) / 2, (long * cos + wide * sin) / 2
        if any(abs(item.x - x) < half_x + a and abs(item.z - z) < half_z + b for x, z, a, b in boxes):
            continue
        boxes.append((item.x, item.z, half_x, half_z))
        kept.append(entry)
    return kept


def _is_ours(street: Street, side: int) -> bool:
    """Whether traffic on this side drives away from the camera."""
    return side * street.center < 0


def _kind(rng: np.random.Generator, stats: DomainStatistics) -> str:
    shares = np.array(list(stats.vehicle_mix.values()))
    return str(rng.choice(list(stats.vehicle_mix), p=shares / shares.sum()))


def _vehicle(
    rng: np.random.Generator, stats: DomainStatistics, kind: str, at: tuple[float, float], heading: float
) -> Vehicle:
    color = np.array(stats.car_colors[int(rng.integers(len(stats.car_colors)))], float) * rng.uniform(0.8, 1.15)
    if kind in ("bus", "tram", "truck") and rng.random() < 0.7:
        bright = ((210, 40, 30), (235, 190, 40), (230, 230, 225), (40, 90, 170), (60, 140, 80))
        color = np.array(bright[int(rng.integers(5))], float) * (1.0 if stats.name == "game" else 0.8)
    # 64 shapes per kind: a profile is worth caching
    return Vehicle(kind, at[0], at[1], float(heading), (float(color[0]), float(color[1]), float(color[2])),
                   int(rng.integers(64)), rng.random() < 0.3, stats.name)  # fmt: skip


def _parked(rng: np.random.Generator, stats: DomainStatistics, street: Street, side: int) -> list[Placed]:
    placed: list[Placed] = []
    z, fill = float(rng.uniform(3, 9)), rng.uniform(0.3, 0.95)
    while z < 85:
        kind = _kind(rng, stats)
        if kind in ("bus", "truck"):
            kind = "van"
        length = LENGTHS.get(kind, 4.7)
        if rng.random() < fill and not street.is_crossed(z + length / 2, 4):
            at = street.place(street.kerb(side) - side * rng.uniform(0.95, 1.15), z + length / 2)
            turn = 0.0 if _is_ours(street, side) or rng.random() < 0.15 else np.pi
            placed.append((*at, _vehicle(rng, stats, kind, at, street.heading(z) + turn + rng.normal(0, 0.02))))
        z += length + rng.uniform(0.3, 1.4)
    return placed


def _lane(
    rng: np.random.Generator, stats: DomainStatistics, street: Street, side: int, *, parked: bool
) -> list[Placed]:
    placed: list[Placed] = []
    ours = _is_ours(street, side)
    z = float(rng.uniform(7, 26))
    gap = rng.uniform(*stats.traffic_gap)
    free = street.half_width - (2.1 if parked else 0.3)
    lanes = [free * 0.5] if street.lanes == 2 else [free * 0.28, free * 0.75]
    while z < 110:
        kind = _kind(rng, stats)
        length = LENGTHS.get(kind, 4.7)
        at = street.place(
            street.center + side * (lanes[int(rng.integers(len(lanes)))] + rng.normal(0, 0.15)), z + length / 2
        )
        too_near = kind in ("bus", "truck") and z < 10
        if not too_near and not (street.end is not None and z > street.end - 3):
            heading = street.heading(z) + (0.0 if ours else np.pi) + rng.normal(0, 0.03)
            placed.append((*at, _vehicle(rng, stats, kind, at, heading)))
        z += length + max(1.5, rng.exponential(gap))
    return placed


def _cross_traffic(rng: np.random.Generator, stats: DomainStatistics, street: Street) -> list[Placed]:
    """Vehicles seen from the side in the side street, at most as far out as houses leave the view free."""
    if street.crossing is None and street.end is None:
        return []
    middle = street.crossing[0] if street.crossing is not None else float(street.end or 0) + 4.5
    placed: list[Placed] = []
    for direction in (-1, 1):
        x = -street.half_width - 6 + rng.uniform(0, 8)
        while x < street.half_width + 6:
            if rng.random() < 0.55:
                at = (street.center + float(street.bend(middle)) + x, middle - direction * 1.9)
                placed.append(
                    (*at, _vehicle(rng, stats, _kind(rng, stats), at, direction * np.pi / 2 + rng.normal(0, 0.06)))
                )
            x += rng.uniform(7, 16)
    return placed
