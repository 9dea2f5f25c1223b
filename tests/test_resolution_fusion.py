"""Logits fused from two resolutions: against a plain oracle at odd sizes, at both ends of the attention, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import stuffinstance as si

# (context, size, detail, corner): whole multiples, odd ones, a crop of one pixel, and one that covers everything.
SIZES = [
    ((4, 6), (8, 12), (4, 6), (2, 4)),
    ((3, 5), (7, 13), (4, 5), (3, 7)),
    ((5, 3), (5, 11), (1, 1), (0, 10)),
    ((2, 2), (9, 5), (9, 5), (0, 0)),
    ((7, 9), (3, 4), (2, 3), (1, 0)),
]
sizes = pytest.mark.parametrize(("context", "size", "detail", "corner"), SIZES)
Pair = tuple[int, int]


def drawn(context: Pair, detail: Pair, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (2, K, ...) of context, detail and attention in float64."""
    shapes = ((2, classes, *each) for each in (context, detail, context))
    low, high, attention = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return low, high, attention


def neighbors(place: int, length: int, wanted: int) -> list[tuple[int, float]]:
    """The cells that a pixel of the upsampled line lies between, and their weights."""
    at = max(0.0, (place + 0.5) * length / wanted - 0.5)
    first = math.floor(at)
    return [(first, 1 - (at - first)), (min(first + 1, length - 1), at - first)]


def oracle(low: Tensor, high: Tensor, attention: Tensor, size: Pair, corner: Pair) -> Tensor:
    """The formula pixel by pixel."""
    result = torch.zeros(*low.shape[:2], *size, dtype=torch.float64)
    for b in range(low.shape[0]):
        for k in range(low.shape[1]):
            y_low, y_high, z = low[b, k].tolist(), high[b, k].tolist(), attention[b, k].tolist()
            for i in range(size[0]):
                for j in range(size[1]):
                    row, column = i - corner[0], j - corner[1]
                    inside = 0 <= row < high.shape[2] and 0 <= column < high.shape[3]
                    for y, of_row in neighbors(i, low.shape[2], size[0]):
                        for x, of_column in neighbors(j, low.shape[3], size[1]):
                            weight, a = of_row * of_column, 1 / (1 + math.exp(-z[y][x]))
                            if inside:
                                result[b, k, i, j] += weight * ((1 - a) * y_low[y][x] + a * y_high[row][column])
                            else:
                                result[b, k, i, j] += weight * y_low[y][x]
    return result


@sizes
def test_fused_logits_are_those_of_the_formula(context: Pair, size: Pair, detail: Pair, corner: Pair) -> None:
    logits = drawn(context, detail)
    expected = oracle(*logits, size, corner)
    exact = si.fuse_resolutions(*logits, size, corner)
    torch.testing.assert_close(exact, expected)
    single = si.fuse_resolutions(*(each.float() for each in logits), size, corner)
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-5)


@sizes
def test_gradients(context: Pair, size: Pair, detail: Pair, corner: Pair) -> None:
    logits = [each.requires_grad_() for each in drawn(context, detail, classes=1)]
    assert torch.autograd.gradcheck(lambda *each: si.fuse_resolutions(*each, size, corner), logits)


def test_attention_decides_between_both_resolutions() -> None:
    low, high, attention = drawn((3, 5), (4, 6))
    upsampled = torch.nn.functional.interpolate(low, (9, 10), mode="bilinear")
    for z, inside in ((50.0, high), (-50.0, upsampled[..., 5:, 2:8])):
        fused = si.fuse_resolutions(low, high, torch.full_like(attention, z), (9, 10), (5, 2))
        torch.testing.assert_close(fused[..., 5:, 2:8], inside)
        fused[..., 5:, 2:8] = upsampled[..., 5:, 2:8]
        torch.testing.assert_close(fused, upsampled)


def test_one_attention_serves_all_classes() -> None:
    low, high, attention = drawn((3, 5), (4, 6))
    shared = attention[:, :1]
    expected = si.fuse_resolutions(low, high, shared.expand_as(low), (9, 10), (5, 2))
    torch.testing.assert_close(si.fuse_resolutions(low, high, shared, (9, 10), (5, 2)), expected)


def test_half_precision_is_fused_in_float32() -> None:
    logits = [each.bfloat16() for each in drawn((3, 5), (4, 6))]
    expected = si.fuse_resolutions(*(each.float() for each in logits), (9, 10), (5, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(si.fuse_resolutions(*logits, (9, 10), (5, 2)), expected)
    assert si.fuse_resolutions(*(each[:0] for each in logits), (9, 10)).shape == (0, 3, 9, 10)


@pytest.mark.parametrize(("size", "corner"), [((9, 10), (6, 0)), ((9, 10), (0, 5)), ((3, 10), (0, 0))])
def test_a_detail_crop_outside_of_the_result_raises(size: Pair, corner: Pair) -> None:
    with pytest.raises(ValueError, match="detail_logits must lie within size"):
        si.fuse_resolutions(*drawn((3, 5), (4, 6)), size, corner)
