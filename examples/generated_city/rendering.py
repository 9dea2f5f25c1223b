"""From a scene to the image a domain's camera would deliver: paint, average down, haze, lens, sensor, codec.

The gap between the cities is made here and in the materials. Color response is only its smallest part: sharpness,
noise spectra, motion blur, chroma resolution, ghosting veil and wet mirrors all survive any matching of channel means.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import FAR, Bytes, Canvas
from .ground import paint_ground, sample_ground_look
from .label_ids import EGO_VEHICLE, ROAD
from .lighting import sample_light
from .painter import Painter
from .scene import SUPERSAMPLING, Scene, sample_scene
from .shadows import paint_shadows
from .sky import paint_sky
from .statistics import DomainStatistics

Floats32 = NDArray[np.float32]


def render_scene(seed: tuple[int, ...], stats: DomainStatistics, size: tuple[int, int]) -> tuple[Bytes, Bytes]:
    """Image (H, W, 3) RGB and label ids (H, W) of one scene; a function of its arguments alone."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, stats, size)
    light = sample_light(rng, stats.name)
    canvas = Canvas(scene.camera.width, scene.camera.height)
    painter = Painter(canvas, scene.camera, light, stats.name)
    paint_sky(painter, rng)
    paint_ground(painter, scene.street, sample_ground_look(rng, stats.name))
    paint_shadows(painter, list(scene.objects))
    for item in scene.objects:
        item.paint(painter)
    if light.wet:
        _mirror_wet_road(canvas, scene, light.wet)
    if scene.bonnet:
        _paint_bonnet(canvas, rng, stats.name)
    image = cv2.resize(canvas.rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    ids = np.ascontiguousarray(canvas.ids[::SUPERSAMPLING, ::SUPERSAMPLING])
    depth = canvas.depth[::SUPERSAMPLING, ::SUPERSAMPLING]
    develop = _develop_game if stats.name == "game" else _develop_camera
    return develop(image, depth, rng), ids


def _mirror_wet_road(canvas: Canvas, scene: Scene, wet: float) -> None:
    """A blurred upside-down image on the road, stronger towards the horizon, as thin water gives it."""
    first = int(scene.camera.horizon)
    below = canvas.rgb[first:]
    rows = min(first, below.shape[0])
    mirrored = cv2.blur(canvas.rgb[first - rows : first][::-1], (9, 31)).astype(np.float32)
    share = np.linspace(0.75, 0.15, rows, dtype=np.float32)[:, None] * np.float32(wet)
    share = share * (canvas.ids[first : first + rows] == ROAD)
    part = below[:rows].astype(np.float32) * (1 - 0.25 * share[:, :, None])
    part += share[:, :, None] * 0.7 * (mirrored - part)
    below[:rows] = part.clip(0, 255).astype(np.uint8)


def _paint_bonnet(canvas: Canvas, rng: np.random.Generator, domain: str) -> None:
    """The observing car's own bonnet, which no class trains on."""
    height, width = canvas.ids.shape
    rise = rng.uniform(0.05, 0.1) if domain == "camera" else rng.uniform(0.02, 0.08)
    turn = np.linspace(-1, 1, 24)
    tilt = rng.normal(0, 0.01)
    top = height * (1 - rise * (1 - 0.8 * np.abs(turn) ** 3) + tilt * turn)
    outline = np.stack([(turn * 0.53 + 0.5) * width, top], axis=1)
    outline = np.concatenate([outline, [[width * 1.03, height + 9], [-0.03 * width, height + 9]]])
    tone = rng.uniform(20, 60) if domain == "camera" else rng.uniform(20, 220)
    canvas.fill(outline, (tone, tone, tone * 1.05), EGO_VEHICLE, 2.0)
    shine = outline[:24] + np.array([0, 0.012 * height])
    canvas.stroke(shine, (tone + 35, tone + 37, tone + 40), 0.012 * height, None)


def _haze(image: Floats32, depth: Floats32, color: NDArray[np.float64], reach: float) -> Floats32:
    veil = (1 - np.exp(-depth / np.float32(reach)))[:, :, None] * (depth < FAR)[:, :, None]
    return np.asarray(image + veil * (color.astype(np.float32) - image), np.float32)


def _saturate(image: Floats32, amount: float) -> Floats32:
    gray = image @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(gray[:, :, None] + np.float32(amount) * (image - gray[:, :, None]), np.float32)


def _develop_game(image: Floats32, depth: Floats32, rng: np.random.Generator) -> Bytes:
    """Clean, crisp, contrasty, saturated; exposure and white balance wander widely."""
    image = _haze(image, depth, np.array([205.0, 218, 235]), rng.uniform(250, 1500))
    image = _saturate(image, rng.uniform(0.35, 1.35))
    exposure = np.exp(rng.normal(0.02, 0.24))
    balance = 1 + rng.normal(0, 0.03, 3)
    # a street in shade is exposed far below its sky, so the sky stays bright in dark images
    level = np.where(depth >= FAR, np.float32(exposure**0.3), np.float32(exposure))[:, :, None]
    image = image * level * balance.astype(np.float32)
    curve = (image / 255).clip(0, 2)
    shoulder = np.float32(rng.uniform(0.55, 0.85))  # above it highlights are compressed, not cut
    bent = shoulder + (1 - shoulder) * np.tanh((curve - shoulder) / (1.15 * (1 - shoulder)))
    curve = np.where(curve > shoulder, bent, curve)
    curve = curve ** np.float32(rng.uniform(0.85, 1.25))
    contrast = np.float32(rng.uniform(0.85, 1.3))
    curve = (0.45 + contrast * (curve - 0.45)).clip(0, 1)
    out = curve * 255
    amount = rng.uniform(0.0, 0.8)
    out = out + np.float32(amount) * (out - cv2.GaussianBlur(out, (0, 0), 0.9))
    out += rng.standard_normal(out.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 4.0))
    return np.asarray(out.clip(0, 255), np.uint8)


def _develop_camera(image: Floats32, depth: Floats32, rng: np.random.Generator) -> Bytes:
    """Haze, soft lens, motion blur, vignette, greenish flat response, correlated noise, coarse chroma, JPEG."""
    height, width = depth.shape
    image = _haze(image, depth, np.array([196.0, 202, 200]), rng.uniform(60, 220))
    image = _saturate(image, rng.uniform(0.45, 0.7))
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.55, 0.9)), np.float32)
    if rng.random() < 0.5:
        length = int(rng.integers(2, 6))
        kernel = np.zeros((5, 5), np.float32)
        cv2.line(kernel, (2 - length // 2, 2), (2 + length // 2, 2 + int(rng.integers(-1, 2))), 1.0)
        image = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
    glow = cv2.GaussianBlur(cv2.resize(image, (width // 8, height // 8), interpolation=cv2.INTER_AREA), (0, 0), 4)
    glow = cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR)
    image = image + np.float32(rng.uniform(0.06, 0.18)) * glow
    across = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    image = image * (1 - np.float32(rng.uniform(0.12, 0.3)) * (across + down) * 0.7)[:, :, None]
    response = np.array([0.93, 1.03, 0.95]) * np.exp(rng.normal(0.0, 0.12)) * (1 + rng.normal(0, 0.015, 3))
    curve = (image * response.astype(np.float32) / 255).clip(0, 1) ** np.float32(rng.uniform(0.95, 1.15))
    out = 255 * (0.04 + 0.9 * curve)
    grain = rng.standard_normal(out.shape, dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * np.float32(2.2)
    out += grain * (np.float32(rng.uniform(2.0, 4.5)) * (1.3 - curve))
    return _through_jpeg(out.clip(0, 255).astype(np.uint8), int(rng.integers(62, 88)))


def _through_jpeg(image: Bytes, quality: int) -> Bytes:
    """Block artifacts and half-resolution chroma, as compressed video has them."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.array(Image.open(buffer, formats=("JPEG",)))
