"""What stands and walks on the pavement: people, street trees, lamps, signs, signals, bollards, parked cycles."""

from __future__ import annotations

import numpy as np

from .lots import sample_tree
from .painter import Paintable
from .people import Cycle, Person
from .roadside import SIGN_SHAPES, Barrier, Bin, Pole, Sign, TrafficLight
from .statistics import DomainStatistics
from .street import Street

Placed = tuple[float, float, Paintable]
REACH = 90.0  # meters of street that are furnished
SEEDS = 1 << 30
SIGN_SHARES = (0.14, 0.2, 0.2, 0.14, 0.1, 0.1, 0.12)  # in the order of SIGN_SHAPES


def sample_pavement(rng: np.random.Generator, stats: DomainStatistics, street: Street) -> list[Placed]:
    """Both pavements and the people who cross the road."""
    placed: list[Placed] = []
    for side in (-1, 1):
        placed += _furniture(rng, stats, street, side)
        placed += _people(rng, stats, street, side)
        placed += _parked_cycles(rng, stats, street, side)
    placed += _signals(rng, stats, street)
    for _ in range(int(rng.poisson(0.5))):
        placed += _group(
            rng, stats, street, rng.uniform(-0.9, 0.9) * street.half_width + street.center, rng.uniform(9, 50)
        )
    return placed


def _furniture(rng: np.random.Generator, stats: DomainStatistics, street: Street, side: int) -> list[Placed]:
    placed: list[Placed] = []
    kerb = street.kerb(side)
    gray = float(rng.uniform(50, 150))
    thick = float(rng.uniform(0.09, 0.16))
    tall, arm = float(rng.uniform(5, 9)), float(rng.uniform(0.8, 2.5)) if rng.random() < 0.6 else 0.0
    for z in _along(rng, street, rng.uniform(*stats.pole_gap), 4.0):
        at = street.place(kerb + side * 0.5, z)
        placed.append((*at, Pole(*at, tall, thick, -side * arm, True, (gray, gray, gray * 0.97))))
    if rng.random() < stats.street_tree_share:
        for z in _along(rng, street, rng.uniform(*stats.tree_gap), 5.0):
            at = street.place(kerb + side * rng.uniform(0.8, 1.3), z)
            placed.append((*at, sample_tree(rng, stats, at, scale=0.8)))
    for _ in range(int(rng.poisson(stats.sign_rate))):
        z = float(4 + (REACH - 20) * rng.random() ** 1.5)
        at = street.place(kerb + side * rng.uniform(0.3, 1.0), z)
        shape = str(rng.choice(SIGN_SHAPES, p=SIGN_SHARES))
        high, size = float(rng.uniform(1.9, 3.2)), float(rng.uniform(0.45, 0.85))
        placed.append((*at, Sign(*at, high, size, shape, True, int(rng.integers(SEEDS)))))
        if rng.random() < 0.25:
            placed.append(
                (
                    at[0],
                    at[1] + 0.001,
                    Sign(
                        *at,
                        high - size * 1.05,
                        size * 0.9,
                        str(rng.choice(SIGN_SHAPES, p=SIGN_SHARES)),
                        False,
                        int(rng.integers(SEEDS)),
                    ),
                )
            )
    if rng.random() < stats.guardrail_share:
        start, high, gray_rail = float(rng.uniform(4, 15)), float(rng.uniform(0.9, 1.2)), float(rng.uniform(0.4, 1.6))
        for part in range(int(rng.integers(4, 16))):
            at_z = start + 2.0 * part
            if not street.is_crossed(at_z, 3.0):
                a, b = (street.place(kerb + side * 0.3, at_z + k) for k in (0.0, 2.0))
                rail = Barrier("fence", a, b, high, 0, (gray_rail, gray_rail, gray_rail))
                placed.append(((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, rail))
    elif rng.random() < 0.25:
        for z in _along(rng, street, rng.uniform(1.5, 3), 3.0, reach=35):
            at = street.place(kerb + side * 0.35, z)
            placed.append((*at, Pole(*at, 0.95, 0.12, 0.0, False, (60, 60, 62))))
    for _ in range(int(rng.poisson(0.8))):
        at = street.place(kerb + side * rng.uniform(0.6, 2.0), rng.uniform(5, 40))
        tone = rng.uniform(40, 120, 3)
        placed.append((*at, Bin(*at, float(rng.uniform(0.8, 1.5)), (float(tone[0]), float(tone[1]), float(tone[2])))))
    return placed


def _people(rng: np.random.Generator, stats: DomainStatistics, street: Street, side: int) -> list[Placed]:
    placed: list[Placed] = []
    rate = rng.uniform(*stats.people_rate)
    if street.style in ("residential", "green"):
        rate *= 0.5
    k = (side + 1) // 2
    for _ in range(int(rng.poisson(rate * REACH / 10 * 0.6))):
        z = float(4 + (REACH - 10) * rng.random() ** 1.4)
        u = street.kerb(side) + side * (street.verges[k] + rng.uniform(0.3, max(street.sidewalks[k] - 0.2, 0.6)))
        placed += _group(rng, stats, street, u, z)
    return placed


def _group(rng: np.random.Generator, stats: DomainStatistics, street: Street, u: float, z: float) -> list[Placed]:
    placed: list[Placed] = []
    for member in range(1 + int(rng.poisson(stats.group_mean - 1))):
        at = street.place(u + member * rng.uniform(0.3, 0.6), z + rng.uniform(-0.3, 0.3))
        height = float(rng.uniform(1.55, 1.88)) if rng.random() < 0.9 else float(rng.uniform(1.0, 1.4))
        placed.append((*at, Person(*at, height, int(rng.integers(SEEDS)))))
    return placed


def _parked_cycles(rng: np.random.Generator, stats: DomainStatistics, street: Street, side: int) -> list[Placed]:
    placed: list[Placed] = []
    for _ in range(int(rng.poisson(stats.parked_cycles_rate / 2))):
        z = float(rng.uniform(5, 35))
        kind = "bicycle" if rng.random() < 0.72 else "motorcycle"
        for k in range(int(rng.integers(1, 5))):
            at = street.place(street.kerb(side) + side * rng.uniform(0.5, 0.8), z + 0.6 * k)
            heading = street.heading(z) + rng.normal(0, 0.15) + (np.pi / 2 if rng.random() < 0.4 else 0)
            placed.append((*at, Cycle(kind, *at, float(heading), False, int(rng.integers(SEEDS)))))
    return placed


def _signals(rng: np.random.Generator, stats: DomainStatistics, street: Street) -> list[Placed]:
    if rng.random() > stats.light_share:
        return []
    placed: list[Placed] = []
    z = street.crossing[0] - street.crossing[1] - 3 if street.crossing else float(rng.uniform(12, 45))
    state = int(rng.integers(3))
    for side in (-1, 1):
        for far in (0.0, 2 * street.crossing[1] + 6 if street.crossing else 0.6):
            at = street.place(street.kerb(side) + side * 0.6, z + far)
            placed.append((*at, TrafficLight(*at, float(rng.uniform(2.2, 2.8)), True, state, rng.random() < 0.25)))
    if rng.random() < 0.35:  # a gantry over the road
        foot = street.place(street.kerb(1) + 0.7, z + 1)
        arm = min(street.half_width, 5.0)
        placed.append((*foot, Pole(*foot, 5.8, 0.2, -arm, False, (90, 92, 92))))
        hang = street.place(street.kerb(1) + 0.7 - arm, z + 0.98)
        placed.append((*hang, TrafficLight(*hang, 4.7, False, state, False)))
    return placed


def _along(rng: np.random.Generator, street: Street, gap: float, start: float, reach: float = REACH) -> list[float]:
    """Jittered positions along the street that leave side streets free."""
    spots = np.arange(start + rng.uniform(0, gap), reach, gap)
    spots = spots + rng.normal(0, gap * 0.06, len(spots))
    return [float(z) for z in spots if not street.is_crossed(float(z), 1.0)]
