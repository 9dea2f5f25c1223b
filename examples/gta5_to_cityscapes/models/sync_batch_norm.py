"""Batch normalization whose statistics are those of the images of all ranks."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed import sum_of_ranks, world


def share_statistics(network: nn.Module, device: torch.device) -> None:
    """Put into ``network`` batch normalization over all ranks: torch's on a GPU; that has none for a CPU, ours does.

    Names, parameters and buffers stay, so that checkpoints fit either way.
    """
    if world() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = RanksBatchNorm


class RanksBatchNorm(nn.BatchNorm2d):
    """``nn.SyncBatchNorm`` in plain operations; each forward and backward pass in training adds up two tensors."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        channels = (1, -1, 1, 1)
        pixels = sum_of_ranks(torch.tensor(float(x.numel() // x.shape[1])))
        mean = _sum_over_pixels_and_ranks(x) / pixels
        centered = x.float() - mean.view(channels)
        variance = _sum_over_pixels_and_ranks(centered.square()) / pixels
        self._remember(mean.detach(), variance.detach() * (pixels / (pixels - 1)))
        normal = centered * torch.rsqrt(variance + self.eps).view(channels)
        return (normal * self.weight.view(channels) + self.bias.view(channels)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased: Tensor) -> None:
        momentum = cast(float, self.momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)
        for kept, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            cast(Tensor, kept).lerp_(new.to(cast(Tensor, kept).dtype), momentum)


def _sum_over_pixels_and_ranks(x: Tensor) -> Tensor:
    """(D,); what all ranks make of the sum comes back to each rank's pixels."""
    return cast(Tensor, _SumOfRanks.apply(x.float().sum((0, 2, 3))))


class _SumOfRanks(torch.autograd.Function):
    """Every rank adds to the sum and every rank uses it, so its gradient is a sum over ranks too."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        return sum_of_ranks(own)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return sum_of_ranks(gradient.contiguous())


class KeptStatistics:
    """The running means and variances of a network's batch normalization, averaged over ranks after a step.

    Where each rank normalizes by its own images, so that what is evaluated and saved belongs to no rank alone.
    """

    def __init__(self, network: nn.Module) -> None:
        self.norms = [
            module
            for module in network.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, (RanksBatchNorm, nn.SyncBatchNorm))
        ]

    @torch.no_grad()
    def average(self) -> None:
        """One collective for all of them; frozen ones are the same on all ranks, and stay so to the bit."""
        moved = [norm for norm in self.norms if norm.training] if world() > 1 else []
        kept = [each for norm in moved for each in (norm.running_mean, norm.running_var) if each is not None]
        if not kept:
            return
        mean = sum_of_ranks(torch.cat(kept)) / world()
        torch._foreach_copy_(kept, list(mean.split([len(each) for each in kept])))
