"""Sky with a gradient and fractal clouds, often blown out to white as exposure for a street makes it."""

from __future__ import annotations

import cv2
import numpy as np

from .label_ids import SKY
from .noise import noise_patch
from .painter import Painter


def paint_sky(painter: Painter, rng: np.random.Generator) -> None:
    """Fill the rows above the horizon; called first, everything else covers it."""
    canvas, camera = painter.canvas, painter.camera
    rows = min(max(int(camera.horizon) + 2, 4), camera.height)
    sunny = painter.light.shadow > 0.2
    if painter.domain == "game":
        top = np.array([70.0, 125, 205]) * rng.uniform(0.8, 1.2) if sunny else np.full(3, rng.uniform(150, 262))
        low = np.array([190.0, 215, 240]) if sunny else np.minimum(top * 1.15 + 10, 255)
        white = rng.uniform(0.0, 1.0) ** 0.4
        top, low = top + white * (245 - top), low + white * (250 - low)
        cloud_gain, cloud_tone = rng.uniform(0.1, 0.9), np.array([250.0, 250, 250])
        if not sunny and rng.random() < 0.5:
            cloud_tone = top * rng.uniform(0.45, 0.8)
    else:
        level = rng.uniform(185, 225)
        top, low = level * np.array([0.97, 1.0, 1.0]), np.full(3, level + 22)
        cloud_gain, cloud_tone = rng.uniform(0.2, 0.6), np.full(3, level * 0.82)
    height = rows // 4 + 1
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 1.3
    sky = top.astype(np.float32) + share * (low - top).astype(np.float32)
    sky = np.broadcast_to(sky, (height, camera.width // 4 + 1, 3)).copy()
    clouds = noise_patch(rng, height * 2, sky.shape[1], 1.6, rng.uniform(1.0, 2.5))
    clouds = np.asarray(cv2.resize(clouds, (sky.shape[1], height), interpolation=cv2.INTER_AREA), np.float32)
    cover = (0.5 * clouds + rng.uniform(-0.6, 0.7)).clip(0, 1)[:, :, None] * np.float32(cloud_gain)
    sky += cover * (cloud_tone.astype(np.float32) - sky)
    full = cv2.resize(sky, (camera.width, rows), interpolation=cv2.INTER_CUBIC)
    canvas.rgb[:rows] = full.clip(0, 255).astype(np.uint8)
    canvas.rgb[rows:] = 128
    canvas.ids[:] = SKY
