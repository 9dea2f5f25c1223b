"""Style transfer: source structure, target colors, any sizes, values in range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si

Transfer = Callable[[Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize(
    "transfer", [si.fourier_amplitude_transfer, si.lab_color_transfer], ids=["fourier", "lab"]
)


def scene(seed: int, height: int = 24, width: int = 40, batch: int = 1, low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((batch, 3, 4, 5), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return low + (high - low) * smooth


@BOTH
def test_an_image_transferred_as_itself_is_itself(transfer: Transfer) -> None:
    image = scene(0)
    torch.testing.assert_close(transfer(image, image), image, atol=2e-3, rtol=0)


@BOTH
@pytest.mark.parametrize("target_size", [(24, 40), (17, 31), (64, 48)])
def test_colors_move_towards_the_target(transfer: Transfer, target_size: tuple[int, int]) -> None:
    source, target = scene(1, low=0.35, high=0.5), scene(2, *target_size, low=0.5, high=0.75)
    transferred = transfer(source, target)
    assert transferred.shape == source.shape
    before = (source.mean((2, 3)) - target.mean((2, 3))).abs().max()
    after = (transferred.mean((2, 3)) - target.mean((2, 3))).abs().max()
    assert after < 0.3 * before
    brightness = np.corrcoef(source.mean(1).flatten(), transferred.mean(1).flatten())
    assert brightness[0, 1] > 0.9


@BOTH
def test_targets_are_taken_in_turn(transfer: Transfer) -> None:
    source, target = scene(3, batch=3), scene(4, batch=2)
    transferred = transfer(source, target)
    singles = [transfer(source[b : b + 1], target[b % 2 : b % 2 + 1]) for b in range(3)]
    torch.testing.assert_close(transferred, torch.cat(singles), atol=1e-5, rtol=0)


@BOTH
def test_values_stay_in_range(transfer: Transfer) -> None:
    source, target = (scene(5) > 0.5).float(), scene(6)
    transferred = transfer(source, target)
    assert float(transferred.min()) >= 0
    assert float(transferred.max()) <= 1
    assert torch.isfinite(transferred).all()


@BOTH
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_flat_and_odd_images(transfer: Transfer, size: tuple[int, int]) -> None:
    transferred = transfer(torch.full((1, 3, *size), 0.3), torch.full((1, 3, 6, 6), 0.6))
    torch.testing.assert_close(transferred, torch.full((1, 3, *size), 0.6), atol=5e-3, rtol=0)


@BOTH
def test_half_precision_comes_back_as_such(transfer: Transfer) -> None:
    source, target = scene(7), scene(8)
    transferred = transfer(source.bfloat16(), target.bfloat16())
    assert transferred.dtype == torch.bfloat16
    torch.testing.assert_close(transferred.float(), transfer(source, target), atol=0.05, rtol=0)


def test_the_window_swaps_these_frequencies_and_no_others() -> None:
    source, target = scene(9, 32, 32, low=0.4, high=0.6), scene(10, 32, 32, low=0.4, high=0.6)
    transferred = si.fourier_amplitude_transfer(source, target, window=0.1)  # up to 3 cycles
    amplitude = [torch.fft.fft2(x.double()).abs() for x in (source, target, transferred)]
    cycles = torch.fft.fftfreq(32, 1 / 32).abs()
    low = (cycles[:, None] <= 3) & (cycles <= 3)
    torch.testing.assert_close(amplitude[2][..., low], amplitude[1][..., low], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(amplitude[2][..., ~low], amplitude[0][..., ~low], atol=1e-3, rtol=1e-3)
