"""Tree and bush images with ragged outlines: clumps of leaves over fractal noise, or bare branches."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .noise import noise_patch

Bytes = NDArray[np.uint8]
LEAVES = {
    "game": [(70, 112, 40), (52, 96, 34), (96, 124, 48), (44, 78, 38), (120, 128, 56), (84, 100, 60), (108, 96, 50)],
    "camera": [(62, 74, 48), (50, 62, 44), (78, 84, 56), (58, 70, 60), (88, 82, 58)],
}
SIZE = 224


@lru_cache(maxsize=2048)
def tree(domain: str, kind: str, slot: int, level: int, mirrored: bool) -> Bytes:
    """RGBA crown with trunk, its foot on the lower edge; kinds are leafy, conifer, bare and bush.

    ``level`` halves the image that often, so that a distant tree is averaged once and not in every scene.
    """
    if level:
        side = SIZE >> level
        return np.asarray(
            cv2.resize(tree(domain, kind, slot, level - 1, mirrored), (side, side), interpolation=cv2.INTER_AREA),
            np.uint8,
        )
    if mirrored:
        return np.ascontiguousarray(tree(domain, kind, slot, 0, False)[:, ::-1])
    key = ("leafy", "conifer", "bare", "bush").index(kind)
    rng = np.random.default_rng([55, 1 if domain == "game" else 2, key, slot])
    if kind == "bare":
        return _bare(rng, domain)
    return _leafy(rng, domain, kind)


def _leafy(rng: np.random.Generator, domain: str, kind: str) -> Bytes:
    height = width = SIZE
    density, lit = np.zeros((2, height, width), np.float32)
    clumps = {"leafy": 46, "conifer": 40, "bush": 50}[kind]
    bottom = {"leafy": 0.68, "conifer": 0.92, "bush": 0.97}[kind]
    for k in range(clumps):
        share = rng.random()
        if kind == "conifer":
            y, spread = bottom * share + 0.04, 0.05 + 0.28 * share
        else:
            y = 0.12 + (bottom - 0.16) * share if kind == "leafy" else 0.3 + 0.64 * share
            spread = 0.36 * np.sqrt(max(0.05, 1 - (2 * share - 0.9) ** 2)) if kind == "leafy" else 0.42
        x = 0.5 + spread * rng.uniform(-1, 1)
        r = rng.uniform(0.05, 0.12) if domain == "game" else rng.uniform(0.04, 0.09)
        center, axes = (round(x * width), round(y * height)), (round(r * width), round(r * width * rng.uniform(0.6, 1)))
        brightness = 0.65 + 0.5 * (1 - y) + rng.uniform(-0.14, 0.14)
        cv2.ellipse(density, center, axes, 0, 0, 360, 1.0, -1)
        cv2.ellipse(lit, center, axes, 0, 0, 360, brightness, -1)
        if k % 2:
            cv2.ellipse(
                lit, (center[0] + 2, center[1] + axes[1] // 2), (axes[0], axes[1] // 2), 0, 0, 360, brightness * 0.7, -1
            )
    density = np.asarray(cv2.GaussianBlur(density, (0, 0), 5), np.float32)
    ragged = density + 0.2 * noise_patch(rng, height, width, 0.8) + 0.13 * noise_patch(rng, height, width, 0.3)
    holes = 0.42 if domain == "game" else 0.5
    alpha = ((ragged - holes) * 5).clip(0, 1) * (density > 0.12)
    lit = np.asarray(cv2.GaussianBlur(lit, (0, 0), 3), np.float32)
    leaf = np.array(LEAVES[domain][int(rng.integers(len(LEAVES[domain])))], np.float32) * rng.uniform(0.75, 1.25)
    texture = lit * (1 + 0.3 * noise_patch(rng, height, width, 0.5) + 0.2 * noise_patch(rng, height, width, 1.2))
    hue = 0.06 * noise_patch(rng, height, width, 1.3)
    rgb = leaf * texture[:, :, None] * np.stack([1 + hue, np.ones_like(hue), 1 - hue], axis=2)
    if kind != "bush":
        rgb, alpha = _with_trunk(rng, rgb, alpha, bottom)
    return np.dstack([rgb.clip(0, 255), alpha * 255]).astype(np.uint8)


def _with_trunk(
    rng: np.random.Generator, rgb: NDArray[np.float32], alpha: NDArray[np.float32], bottom: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = alpha.shape
    trunk = np.zeros((height, width), np.float32)
    thick = int(rng.integers(6, 13))
    lean = int(rng.integers(-8, 9))
    foot, fork = (width // 2, height), (width // 2 + lean, round(bottom * height * 0.75))
    cv2.line(trunk, foot, fork, 1.0, thick)
    for side in (-1, 1):
        tip = (fork[0] + side * int(rng.integers(20, 50)), fork[1] - int(rng.integers(30, 70)))
        cv2.line(trunk, fork, tip, 1.0, thick // 2)
    bark = rng.uniform(50, 95) * np.array([1.05, 0.95, 0.85], np.float32)
    shade = np.linspace(1.2, 0.6, width, dtype=np.float32)[None, :, None]
    color = bark * shade * (1 + 0.2 * noise_patch(rng, height, width, 0.6)[:, :, None])
    under = (trunk > 0) & (alpha < 0.6)
    rgb = np.where(under[:, :, None], color, rgb)
    return rgb, np.where(under, 1.0, alpha)


def _bare(rng: np.random.Generator, domain: str) -> Bytes:
    """Winter tree: forks thin out into twigs, and a veil of the finest ones darkens the sky between."""
    wood = np.zeros((SIZE, SIZE), np.uint8)
    tips: list[tuple[int, int]] = []

    def grow(x: float, y: float, angle: float, length: float, thick: float, depth: int) -> None:
        x1, y1 = x + length * np.sin(angle), y - length * np.cos(angle)
        cv2.line(wood, (round(x), round(y)), (round(x1), round(y1)), 255, max(1, round(thick)), cv2.LINE_AA)
        if depth == 0:
            tips.append((round(x1), round(y1)))
            return
        for _ in range(3 if depth > 1 else 2):
            turn = rng.normal(0, 0.5) - 0.12 * angle
            grow(x1, y1, angle + turn, length * rng.uniform(0.62, 0.86), thick * 0.6, depth - 1)

    grow(SIZE / 2, SIZE, rng.normal(0, 0.05), SIZE * rng.uniform(0.21, 0.25), 9, 5)
    veil = np.zeros((SIZE, SIZE), np.float32)
    for tip in tips:
        cv2.circle(veil, tip, 7, 1.0, -1)
    veil = cv2.GaussianBlur(veil, (0, 0), 4) * (0.5 + 0.35 * noise_patch(rng, SIZE, SIZE, 0.3)).clip(0, 1)
    alpha = np.maximum(wood / 255.0, veil * rng.uniform(0.5, 0.95))
    tone = rng.uniform(45, 90) * (np.array([1.05, 0.97, 0.9]) if domain == "game" else np.array([1.0, 1.0, 0.95]))
    rgb = tone[None, None] * (1 + 0.2 * noise_patch(rng, SIZE, SIZE, 0.5)[:, :, None])
    return np.dstack([rgb.clip(0, 255), alpha * 255]).astype(np.uint8)
