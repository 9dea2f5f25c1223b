"""Carriageway, pavements and grass, pixel by pixel: each ground pixel knows its place in the street's plan."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import FAR
from .label_ids import GROUND, PARKING, ROAD, SIDEWALK, TERRAIN
from .noise import noise_at
from .painter import Painter
from .street import Street

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class GroundLook:
    """Colors of this scene's surfaces."""

    asphalt: NDArray[np.float64]
    paving: NDArray[np.float64]
    grass: NDArray[np.float64]
    kerb: NDArray[np.float64]
    slab: float  # meters between paving joints
    variant: int
    roughness: float
    lot_label: int
    dash_phase: float
    edge_lines: bool
    patches: tuple[tuple[float, float, float, float, float], ...]  # repairs: u from, to, z from, to, tone


def sample_ground_look(rng: np.random.Generator, domain: str) -> GroundLook:
    """Broad ranges in the game, a narrow gray band in the camera city."""
    if domain == "game":
        asphalt = rng.uniform(62, 135) * np.array([1.0, 1.0, 1.0]) + rng.normal(0, 4, 3)
        paving = rng.uniform(85, 175) * np.array([1.03, 1.0, 0.95]) + rng.normal(0, 8, 3)
        if rng.random() < 0.6:  # asphalted pavements: only curb and position distinguish them from the carriageway
            paving = asphalt * rng.uniform(0.8, 1.2) + rng.normal(0, 3, 3)
        grass = np.array([88.0, 128, 48]) * rng.uniform(0.6, 1.2) + rng.normal(0, 12, 3)
    else:
        asphalt = rng.uniform(78, 105) * np.array([0.99, 1.0, 1.0])
        paving = rng.uniform(105, 140) * np.array([1.02, 1.0, 0.94])
        grass = np.array([84.0, 98, 62]) * rng.uniform(0.8, 1.1)
    lot = int(rng.choice([SIDEWALK, TERRAIN, GROUND, PARKING], p=[0.35, 0.5, 0.1, 0.05]))
    slab = float(rng.choice([0.45, 0.6, 0.9, 30.0])) if domain == "game" else 0.25
    patches = []
    for _ in range(int(rng.integers(0, 5))):
        u, z = rng.uniform(-6, 6), rng.uniform(3, 40)
        patches.append((u, u + rng.uniform(0.5, 2.5), z, z + rng.uniform(1, 14), rng.uniform(-0.14, 0.1)))
    return GroundLook(
        asphalt=asphalt,
        paving=paving,
        grass=grass,
        kerb=paving * rng.uniform(0.95, 1.3),
        slab=slab,
        variant=int(rng.integers(4)),
        roughness=float(rng.uniform(0.6, 1.4)),
        lot_label=lot,
        dash_phase=float(rng.uniform(0, 9)),
        edge_lines=bool(rng.random() < 0.6),
        patches=tuple(patches),
    )


def paint_ground(painter: Painter, street: Street, look: GroundLook) -> None:
    """Fill everything below the horizon; close by, half the pixels are enough for what is to be seen."""
    height = painter.camera.height
    first = max(int(painter.camera.horizon) + 1, 0)
    split = min(height, first + 2 * ((height - first) // 5))
    split -= (height - split) % 2
    for top, bottom, step in ((first, split, 1), (split, height, 2)):
        if bottom <= top:
            continue
        colors, labels, depth = _ground_band(painter, street, look, top, bottom, step)
        if step > 1:
            size = (painter.camera.width, bottom - top)
            colors = np.asarray(cv2.resize(colors, size, interpolation=cv2.INTER_LINEAR), np.uint8)
            labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
            depth = np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST), np.float32)
        painter.canvas.rgb[top:bottom] = colors
        painter.canvas.ids[top:bottom] = labels
        painter.canvas.depth[top:bottom] = depth


def _ground_band(
    painter: Painter, street: Street, look: GroundLook, top: int, bottom: int, step: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Floats32]:
    """Colors, labels and depth of some rows, at every ``step``-th pixel."""
    x, z, depth = painter.camera.ground(top, bottom, step)
    offset = x - street.bend(z)
    u = offset - np.float32(street.center)
    labels = _plan(street, u, z, look.lot_label)
    along = depth * depth * np.float32(step / (painter.camera.focal * painter.camera.eye))  # meters per pixel
    across = depth * np.float32(step / painter.camera.focal)
    is_road, is_paved = labels == ROAD, (labels == SIDEWALK) | (labels == PARKING)
    base = np.where(is_road[:, :, None], look.asphalt.astype(np.float32), look.grass.astype(np.float32))
    base[is_paved] = look.paving
    coarse = noise_at(x, z, 1.1, (look.variant + 1) % 4, 14.0)
    fine = noise_at(x, z, 0.25, look.variant, 55.0) * (0.12 / np.maximum(along, 0.02)).clip(0, 1)
    stains = noise_at(x, z * np.float32(0.25), 1.5, (look.variant + 2) % 4, 9.0)
    strength = np.where(labels == TERRAIN, np.float32(0.17), np.float32(0.055 * look.roughness))
    shade = 1 + strength * (1.1 * fine + 0.9 * coarse) + np.float32(0.05) * stains
    worn = np.cos(u * np.float32(2 * np.pi / 1.7)) * np.float32(0.03)
    for left, right, near, far, tone in look.patches:
        worn[(u > left) & (u < right) & (z > near) & (z < far)] += np.float32(tone)
    shade += worn * is_road
    shade -= shade * is_paved * np.float32(0.25) * _joints(offset, z, look.slab, along, across)
    base *= shade[:, :, None]
    _paint_lines(base, street, look, (u, z), (along, across), is_road, coarse)
    base *= painter.light.on(np.array([0.0, 1.0, 0.0])).astype(np.float32)
    return base.clip(0, 255).astype(np.uint8), labels, np.minimum(depth, np.float32(FAR))


def _paint_lines(
    base: Floats32,
    street: Street,
    look: GroundLook,
    place: tuple[Floats32, Floats32],
    pixel: tuple[Floats32, Floats32],
    is_road: NDArray[np.bool_],
    coarse: Floats32,
) -> None:
    """Kerbs, white and yellow paint, rails."""
    (u, z), (along, across) = place, pixel
    _blend(base, _kerb_lines(street, u, z, across), look.kerb)
    wear = (0.75 + 0.2 * coarse).clip(0.1, 1) if street.markings == "worn" else np.float32(0.92)
    _blend(base, _markings(street, look, u, z, along, across) * is_road * wear, np.array([222.0, 220, 212]))
    if street.markings == "yellow":
        edge = _stripe(np.abs(np.abs(u) - np.float32(street.half_width - 0.35)), 0.12, across)
        _blend(base, edge * is_road * np.float32(0.85), np.array([215.0, 180, 60]))
    if street.tram:
        rails = np.maximum.reduce([_stripe(np.abs(np.abs(u) - np.float32(k)), 0.08, across) for k in (0.9, 2.4)])
        _blend(base, rails * is_road * np.float32(0.8), np.array([60.0, 58, 56]))


def _plan(street: Street, u: Floats32, z: Floats32, lot: int) -> NDArray[np.uint8]:
    """Label of every ground position: ``u`` is measured from the middle of the carriageway."""
    labels = np.full(u.shape, lot, np.uint8)
    for side in (-1, 1):
        k = (side + 1) // 2
        out = np.float32(side) * u - np.float32(street.half_width)
        verge, walk = street.verges[k], street.sidewalks[k]
        labels[(out > 0) & (out <= verge + walk)] = SIDEWALK
        if verge:
            labels[(out > 0.2) & (out <= verge)] = TERRAIN
    main = np.abs(u) - np.float32(street.half_width)
    for middle, half in _side_streets(street):
        cross = np.abs(z - np.float32(middle)) - np.float32(half)
        labels[(cross < 3) & (main > 0)] = SIDEWALK
        labels[cross < 0] = ROAD
        radius = np.float32(3.0)
        corner = (main < radius) & (cross < radius) & ((radius - main) ** 2 + (radius - cross) ** 2 > radius**2)
        labels[corner] = ROAD
    labels[main <= 0] = ROAD
    if street.end is not None:
        labels[z > street.end + 9] = SIDEWALK
        labels[z > street.end + 13] = lot
    if street.median:
        island = (np.abs(u) < 0.7) & (np.abs(np.mod(z, 40) - 24) < 9)
        labels[island & (labels == ROAD)] = SIDEWALK
    return labels


def _side_streets(street: Street) -> list[tuple[float, float]]:
    crossed = [street.crossing] if street.crossing else []
    return crossed + ([(street.end + 4.5, 4.5)] if street.end is not None else [])


def _stripe(distance: Floats32, width: float, pixel: Floats32) -> Floats32:
    """Share of a pixel that a line this wide covers, at this distance from its middle."""
    half = np.float32(width / 2)
    cover = ((half - distance) / pixel + np.float32(0.5)).clip(0, 1)
    return np.asarray(cover * np.minimum(np.float32(width) / pixel, 1), np.float32)


def _joints(x: Floats32, z: Floats32, slab: float, along: Floats32, across: Floats32) -> Floats32:
    """Joints between paving slabs, fading where they are finer than a pixel."""
    gap = np.float32(slab)
    ahead = np.abs(np.mod(z, gap) - gap / 2)
    aside = np.abs(np.mod(x, gap) - gap / 2)
    return np.asarray(np.maximum(_stripe(ahead, 0.025, along), _stripe(aside, 0.025, across)), np.float32)


def _kerb_lines(street: Street, u: Floats32, z: Floats32, across: Floats32) -> Floats32:
    main = np.abs(u) - np.float32(street.half_width)
    line = _stripe(np.abs(main - np.float32(0.09)), 0.18, across)
    for middle, half in _side_streets(street):
        line = np.where(np.abs(z - np.float32(middle)) < half + 3, 0, line)
    return np.asarray(line, np.float32)


def _markings(
    street: Street, look: GroundLook, u: Floats32, z: Floats32, along: Floats32, across: Floats32
) -> Floats32:
    """Lane lines, edge lines, a zebra or stop line at the side street, sometimes hatching."""
    half, phase = street.half_width, np.float32(look.dash_phase)
    dashed = (np.mod(z + phase, np.float32(9)) < 3.5).astype(np.float32)
    cover = _stripe(np.abs(u), 0.13, across) * (dashed if not street.median else 1)
    if street.lanes == 4:
        lanes = _stripe(np.abs(np.abs(u) - np.float32(half / 2)), 0.12, across) * dashed
        cover = np.maximum(cover, lanes)
    if look.edge_lines:
        cover = np.maximum(cover, _stripe(np.abs(np.abs(u) - np.float32(half - 0.3)), 0.12, across))
    if street.crossing is not None:
        middle, wide = street.crossing
        at = np.float32(middle - wide - 4.0)
        cover = np.where(np.abs(z - np.float32(middle)) < wide + 2, 0, cover)
        if street.zebra:
            bars = (np.mod(u, np.float32(1.0)) < 0.5) & (np.abs(z - at) < 1.6)
            cover = np.where(np.abs(z - at) < 2.0, bars, cover)
        stop = _stripe(np.abs(z - at + np.float32(2.8)), 0.35, along) * (u * np.float32(-np.sign(street.center)) > 0)
        cover = np.maximum(cover, stop)
    return cover.astype(np.float32)


def _blend(base: Floats32, share: Floats32, color: NDArray[np.float64]) -> None:
    rows = np.flatnonzero(share.any(axis=1))
    if rows.size:
        part, cover = base[rows[0] : rows[-1] + 1], share[rows[0] : rows[-1] + 1, :, None]
        part += cover * (color.astype(np.float32) - part)
