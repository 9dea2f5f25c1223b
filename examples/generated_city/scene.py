"""Sampling of a scene: which objects stand where, by the statistics of a city."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .lots import sample_lots
from .painter import Paintable
from .pavement import sample_pavement
from .statistics import DomainStatistics
from .street import Street, sample_street
from .traffic import sample_traffic

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Scene:
    """Objects in painting order: what lies behind the pavement, then what stands in the street."""

    camera: Camera
    street: Street
    objects: tuple[Paintable, ...]
    bonnet: bool


def sample_scene(rng: np.random.Generator, stats: DomainStatistics, size: tuple[int, int]) -> Scene:
    """A whole scene for an image of ``size`` (width, height)."""
    turned = rng.random() < stats.turned_share
    street = sample_street(rng, stats, turned=turned)
    yaw = rng.normal(0, stats.yaw_deviation)
    if turned:
        yaw += rng.uniform(0.2, 0.85) * (1 if rng.random() < 0.5 else -1)
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    camera = Camera(
        width, height, width * rng.uniform(*stats.focal_per_width), height * rng.uniform(*stats.horizon),
        rng.uniform(*stats.eye_height), float(yaw),
    )  # fmt: skip
    behind = sample_lots(rng, stats, street)
    ahead = sample_pavement(rng, stats, street) + sample_traffic(rng, stats, street)
    ordered: list[Paintable] = []
    for layer in sorted({level for level, _, _, _ in behind}):
        items = [(camera.depth(x, z), item) for level, x, z, item in behind if level == layer]
        ordered += [item for _, item in sorted(items, key=lambda pair: -pair[0])]
    seen = [(camera.depth(x, z), item) for x, z, item in ahead if camera.sees(x, z, 15.0)]
    ranked = sorted(seen, key=lambda pair: -pair[0])
    ordered += [item for depth, item in ranked if depth > 2.5]
    return Scene(camera, street, tuple(ordered), rng.random() < stats.bonnet_share)
