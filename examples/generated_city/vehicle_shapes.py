"""Side profiles and details of each kind of vehicle, jittered per vehicle and proportioned per city."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

Station = tuple[float, float, float]  # forward, up, half width, in meters
Box = tuple[float, float, float, float]  # part of a strip: across from, to, along from, to


@dataclass(frozen=True)
class Decal:
    """A patch on a strip of the profile; lamps shine by themselves."""

    box: Box
    color: tuple[float, float, float]
    lamp: bool = False


@dataclass(frozen=True)
class Shape:
    """One body: profile from the lower rear over the roof to the lower front, and what is painted on it."""

    length: float
    half_width: float
    profile: tuple[Station, ...]
    materials: tuple[str, ...]
    sides: tuple[tuple[str, tuple[Station, ...], bool], ...]
    axles: tuple[float, ...]
    wheel: float
    waist: float  # height where the glass begins; boxes have none and are all waist
    decals: dict[int, tuple[Decal, ...]] = field(default_factory=dict)
    glass: tuple[float, float, float] = (38.0, 44.0, 52.0)
    hub: tuple[float, float, float] = (150.0, 150.0, 154.0)
    stripe: tuple[float, float, float] = (200.0, 40.0, 30.0)


# length, half width, height, belt share, bonnet, boot, slope of the rear glass, slope of the windscreen
CARS = {
    "sedan": (4.6, 0.89, 1.42, 0.64, 1.05, 0.75, 0.7, 0.85),
    "hatch": (3.9, 0.85, 1.48, 0.62, 0.85, 0.05, 0.45, 0.75),
    "estate": (4.6, 0.88, 1.48, 0.63, 1.0, 0.04, 0.35, 0.8),
    "suv": (4.5, 0.94, 1.75, 0.62, 0.95, 0.04, 0.35, 0.65),
    "van": (5.0, 0.96, 2.05, 0.56, 0.55, 0.02, 0.08, 0.75),
}
TAIL, HEAD, PLATE = (190.0, 22.0, 20.0), (225.0, 228.0, 220.0), (215.0, 210.0, 180.0)


@lru_cache(maxsize=4096)
def vehicle_shape(kind: str, domain: str, seed: int) -> Shape:
    """The shape of one vehicle; equal arguments give equal shapes."""
    rng = np.random.default_rng([31, seed])
    if kind in CARS:
        return _car(kind, domain, rng)
    return _box(kind, domain, rng)


def _car(kind: str, domain: str, rng: np.random.Generator) -> Shape:
    length, half, height, belt_share, bonnet, boot, rear_slope, front_slope = (
        v * rng.uniform(0.94, 1.06) for v in CARS[kind]
    )
    if domain == "camera":  # shorter, taller, rounder cars
        length, height, bonnet, front_slope = 0.93 * length, 1.05 * height, 0.85 * bonnet, 1.15 * front_slope
    e, clear, belt = length / 2, 0.2, belt_share * height
    roof_half, high, nose = half * 0.74, belt - 0.04, half * rng.uniform(0.86, 0.92)  # round in plan
    rear_roof, front_roof = -e + boot + rear_slope, e - bonnet - front_slope
    profile = (
        (-e + 0.08, clear, nose),
        (-e, 0.52, nose),
        (-e + 0.04, high - 0.06, nose),
        (-e + boot + 0.06, belt, half * 0.93),
        (rear_roof, height - 0.04, roof_half),
        ((rear_roof + front_roof) / 2, height, roof_half),
        (front_roof, height - 0.05, roof_half),
        (e - bonnet, belt, half * 0.93),
        (e - 0.18, belt - 0.17, nose),
        (e, 0.55, nose * 0.97),
        (e - 0.06, clear, nose * 0.97),
    )
    materials = (
        "trim" if rng.random() < 0.5 else "body",
        "body",
        "body",
        "glass",
        "body",
        "body",
        "glass",
        "body",
        "body",
        "body",
    )
    lower = (
        (-e + 0.35, clear, half),
        *profile[:3],
        (-e + 0.35, high, half),
        profile[3],
        profile[7],
        (e - 0.45, belt - 0.12, half),
        *profile[8:],
        (e - 0.45, clear, half),
    )
    s3, s4, s6, s7 = profile[3][0], profile[4][0], profile[6][0], profile[7][0]
    upper = (
        (s3, belt, half * 0.95),
        (s4, height - 0.04, roof_half),
        (s6, height - 0.05, roof_half),
        (s7, belt, half * 0.95),
    )
    sides: list[tuple[str, tuple[Station, ...], bool]] = [
        ("body", upper, True),
        ("body", lower, True),
        (
            "low",
            (
                (-e + 0.35, clear, half),
                (-e + 0.02, 0.4, nose),
                (-e + 0.35, 0.48, half),
                (e - 0.45, 0.48, half),
                (e - 0.02, 0.42, nose),
                (e - 0.45, clear, half),
            ),
            False,
        ),
        (
            "shine",
            (
                (-e + 0.3, belt - 0.1, half),
                (-e + 0.3, belt - 0.05, half),
                (e - bonnet, belt - 0.05, half),
                (e - bonnet, belt - 0.1, half),
            ),
            False,
        ),
    ]
    for share in (0.36, 0.52, 0.74):
        seam = -e + share * length
        sides.append(("low", _rect(seam, seam + 0.025, clear + 0.1, belt, half), False))
        sides.append(("low", _rect(seam - 0.25, seam - 0.08, belt - 0.16, belt - 0.12, half), False))
    axles = (-e + 0.19 * length, e - 0.19 * length)
    wheel = 0.31 if kind != "suv" else 0.36
    for s in axles:
        arch = np.linspace(0, np.pi, 8)
        sides.append(
            (
                "trim",
                tuple((s + 1.2 * wheel * np.cos(a), wheel + 1.15 * wheel * np.sin(a) - 0.1, half) for a in arch),
                False,
            )
        )
    sides += _car_windows(kind, (s3, s4, s6, s7), belt, height, half, roof_half, rng)
    lamp_low, lamp_high = (0.3, 0.95) if kind in ("van", "estate", "suv") else (0.45, 0.95)
    wide = rng.uniform(0.1, 0.2)
    decals = {
        1: (
            Decal((0.02, wide, lamp_low, lamp_high), TAIL, True),
            Decal((1 - wide, 0.98, lamp_low, lamp_high), TAIL, True),
            Decal((0.36, 0.64, 0.1, 0.42), PLATE),
            Decal((0.0, 1.0, -0.05, 0.03), (40.0, 40.0, 40.0)),
        ),
        8: (
            Decal((0.04, 0.26, 0.1, 0.6), HEAD, True),
            Decal((0.74, 0.96, 0.1, 0.6), HEAD, True),
            Decal((0.3, 0.7, 0.15, 0.75), (25.0, 25.0, 27.0)),
        ),
        9: (Decal((0.36, 0.64, 0.05, 0.4), PLATE), Decal((0.1, 0.9, 0.5, 0.9), (28.0, 28.0, 30.0))),
    }
    glass = (30.0, 35.0, 42.0) if domain == "game" else (58.0, 63.0, 66.0)
    return Shape(length, half, profile, materials, tuple(sides), axles, wheel, belt, decals, glass)


def _car_windows(
    kind: str,
    at: tuple[float, float, float, float],
    belt: float,
    height: float,
    half: float,
    roof: float,
    rng: np.random.Generator,
) -> list[tuple[str, tuple[Station, ...], bool]]:
    """Side glass split at the pillars; many vans have none behind the driver."""
    s3, s4, s6, s7 = at
    low, high = belt + 0.03, height - 0.12
    panes = []
    splits: tuple[float, ...] = (
        (0.05, 0.48, 0.52, 0.94) if kind not in ("estate", "suv") else (0.04, 0.28, 0.31, 0.6, 0.63, 0.95)
    )
    if kind == "van":
        splits = (0.68, 0.95) if rng.random() < 0.6 else (0.06, 0.35, 0.4, 0.66, 0.7, 0.95)
    for a, b in zip(splits[::2], splits[1::2], strict=True):
        corners = []
        for share, y, w in ((a, low, half * 0.94), (a, high, roof), (b, high, roof), (b, low, half * 0.94)):
            base, top = s3 + share * (s7 - s3), s4 + share * (s6 - s4)
            mix = (y - belt) / (height - belt)
            corners.append((base + mix * (top - base), y, w + 0.004))
        panes.append(("glass", tuple(corners), False))
    return panes


def _box(kind: str, domain: str, rng: np.random.Generator) -> Shape:
    """Trucks, buses and trams: tall boxes with a window band or a cab."""
    length = {"truck": rng.uniform(6, 10), "bus": rng.uniform(9.5, 12.5), "tram": rng.uniform(22, 30)}[kind]
    half = 1.24
    height = {"truck": rng.uniform(2.8, 3.8), "bus": rng.uniform(2.9, 4.2 if domain == "game" else 3.1), "tram": 3.4}[
        kind
    ]
    e, clear = length / 2, 0.38
    cab = 2.0 if kind == "truck" else 0.0
    front_top = min(height, 2.75) if kind == "truck" else height
    profile = [(-e + 0.02, clear, half), (-e, 1.2, half), (-e, height * 0.85, half), (-e + 0.08, height, half * 0.97)]
    materials = ["body", "glass" if kind != "truck" else "body", "body", "body"]
    if cab:
        profile += [(e - cab - 0.1, height, half * 0.97), (e - cab, front_top, half * 0.95)]
        materials += ["body", "body"]
    profile += [
        (e - 0.3, front_top, half * 0.95),
        (e - 0.02, front_top * 0.52, half * 0.98),
        (e, 1.0, half),
        (e - 0.02, clear, half),
    ]
    materials += ["glass", "body", "body"]
    outline = tuple((s, y, half) for s, y, _ in profile)
    sides: list[tuple[str, tuple[Station, ...], bool]] = [
        ("body", outline, True),
        ("low", _rect(-e, e, clear, 0.75, half), False),
    ]
    if kind == "truck":
        sides += [
            ("trim", _rect(-e, e - cab - 0.1, clear, 0.85, half), False),
            ("trim", _rect(e - cab - 0.1, e - cab, clear, front_top, half), False),
        ]
        sides.append(("glass", _rect(e - 1.5, e - 0.5, 1.55, front_top - 0.35, half), False))
    else:
        step, low, high = rng.uniform(1.2, 1.8), 1.35, min(height - 0.5, 2.6)
        sides.append(("stripe", _rect(-e, e, 0.85, rng.uniform(0.95, 1.25), half), False))
        for s in np.arange(-e + 0.3, e - 1.0, step):
            sides.append(("glass", _rect(s, s + step - 0.14, low, high, half), False))
            if height > 3.9:
                sides.append(("glass", _rect(s, s + step - 0.14, 3.0, height - 0.3, half), False))
        for s in np.arange(-e * 0.6, e, length / 3):
            sides.append(("glass", _rect(s, s + 1.1, 0.5, high, half), False))
    wide = 0.1
    decals = {
        0: (
            Decal((0.03, wide, 0.3, 0.8), TAIL, True),
            Decal((1 - wide, 0.97, 0.3, 0.8), TAIL, True),
            Decal((0.4, 0.6, 0.2, 0.4), PLATE),
        ),
        len(profile) - 3: (Decal((0.05, 0.2, 0.4, 0.9), HEAD, True), Decal((0.8, 0.95, 0.4, 0.9), HEAD, True)),
    }
    if kind != "truck":
        lit = (240.0, 170.0, 40.0)
        decals[len(profile) - 4] = (Decal((0.2, 0.8, 0.02, 0.12), lit, True),)
    axles = (-e + 0.25 * length, e - 0.18 * length) if kind != "tram" else ()
    red, green, blue = (float(v) for v in rng.uniform(30, 220, 3))
    return Shape(
        length,
        half,
        tuple(profile),
        tuple(materials),
        tuple(sides),
        axles,
        0.48,
        height,
        decals,
        (48.0, 54.0, 60.0),
        (110.0, 110.0, 112.0),
        (red, green, blue),
    )


def _rect(s0: float, s1: float, y0: float, y1: float, w: float) -> tuple[Station, ...]:
    return ((s0, y0, w), (s0, y1, w), (s1, y1, w), (s1, y0, w))
