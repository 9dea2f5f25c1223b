"""The parts of the benchmarks that compare, count, judge and draw."""

from __future__ import annotations

import torch

import stuffinstance as si
from benchmarks.released_way import ReleasedWay


def streets(seed: int, height: int, width: int) -> torch.Tensor:
    """Train ids (1, H, W) of blocks: several regions of most classes, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 20, (1, height // 4, width // 4), generator=generator)
    blocks[blocks == 19] = 255
    return blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_the_released_way_and_the_library_stay_together_over_several_steps() -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, 8, capacity=3, max_instances=2)
    released = ReleasedWay.with_banks_of(sim)
    matched = 0
    for seed in range(8):
        labels = streets(seed, 64, 96)
        source, target = torch.randn(1, 8, 32, 48), torch.randn(1, 8, 24, 40, requires_grad=True)
        predicted = labels[:, ::2, ::2]
        source_logits = torch.nn.functional.one_hot(predicted.clamp(max=18), 19).permute(0, 3, 1, 2).float()
        source_logits += 0.4 * torch.randn(source_logits.shape)
        target_logits = torch.nn.functional.one_hot(streets(seed + 50, 24, 40).clamp(max=18), 19).permute(0, 3, 1, 2)
        sim.update(source, labels, source_logits)
        released.update(source, labels, source_logits)
        assert sim.stuff_bank.written.tolist() == list(released.stuff_written.values())
        assert sim.instance_bank.written.tolist() == list(released.instance_written.values())
        for bank, rows in ((sim.stuff_bank, released.stuff_rows), (sim.instance_bank, released.instance_rows)):
            torch.testing.assert_close(torch.stack(list(rows.values())), bank.features, rtol=1e-5, atol=1e-6)
        ours, theirs = sim(target, target_logits.float()), released(target, target_logits.float())
        torch.testing.assert_close(tuple(theirs), tuple(ours), rtol=1e-5, atol=1e-6)
        if theirs.stuff.requires_grad and theirs.instance.requires_grad:
            matched += 1
            slopes = [torch.autograd.grad(losses.stuff + losses.instance, target)[0] for losses in (theirs, ours)]
            torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-8)
    assert matched >= 2


def test_the_released_way_leaves_out_rows_that_are_not_finite() -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, 4, capacity=2)
    released = ReleasedWay.with_banks_of(sim)
    labels = torch.zeros(1, 6, 8, dtype=torch.int64)
    logits = torch.nn.functional.one_hot(labels, 19).permute(0, 3, 1, 2).float()
    released.update(torch.full((1, 4, 6, 8), torch.nan), labels, logits)
    assert not any(released.stuff_written.values())
    assert all(rows.isfinite().all() for rows in released.stuff_rows.values())
