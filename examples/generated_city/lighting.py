"""Sun and sky light of one scene: decides which walls are bright, how dark shadows are, how far one sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Light:
    """``to_sun`` is a unit vector in world axes; colors are multipliers on surface color."""

    to_sun: Vector
    sun: Vector
    ambient: Vector
    shadow: float  # share of light that a cast shadow takes away, 0 under a closed sky
    wet: float  # 0 dry to 1 mirror-wet road

    def on(self, normal: Vector) -> Vector:
        """Multiplier for a surface with this outward normal; the sky lights what faces up a little more."""
        facing = max(0.0, float(normal @ self.to_sun))
        return self.ambient * (0.88 + 0.12 * float(normal[1])) + self.sun * facing

    def shadow_offset(self, height: float) -> tuple[float, float]:
        """Ground displacement (x, z) of the shadow of a point this high."""
        reach = height / max(float(self.to_sun[1]), 0.2)
        return -float(self.to_sun[0]) * reach, -float(self.to_sun[2]) * reach


def sample_light(rng: np.random.Generator, domain: str) -> Light:
    """Clear game weather with hard shadows mostly; the camera city lives under thin or closed cloud."""
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.15)
    to_sun = np.array([np.cos(height) * np.cos(azimuth), np.sin(height), np.cos(height) * np.sin(azimuth)])
    closed_share = 0.35 if domain == "game" else 0.75
    if rng.random() < closed_share:
        strength, ambient, shadow = rng.uniform(0.0, 0.15), rng.uniform(0.75, 0.95), rng.uniform(0.0, 0.15)
    else:
        strength, ambient, shadow = rng.uniform(0.4, 0.8), rng.uniform(0.42, 0.65), rng.uniform(0.35, 0.6)
    warm = np.array([1.04, 1.0, 0.9]) if domain == "game" else np.array([1.0, 1.0, 0.96])
    cool = np.array([0.95, 1.0, 1.06]) if domain == "game" else np.array([0.97, 1.0, 1.0])
    wet = float(rng.uniform(0.3, 0.8)) if domain == "camera" and rng.random() < 0.4 else 0.0
    return Light(to_sun, strength * warm, ambient * cool, float(shadow), wet)
