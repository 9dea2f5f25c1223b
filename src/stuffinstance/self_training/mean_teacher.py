"""A teacher that is the running mean of the network it teaches (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from stuffinstance.arguments import check_kind, checked_fraction


class MeanTeacher(nn.Module):
    """Exponential mean of a network's parameters.

    .. math:: \\theta'_t = \\alpha_t \\theta'_{t-1} + (1 - \\alpha_t) \\theta_t, \\qquad
              \\alpha_t = \\min(1 - \\tfrac{1}{t + 1},\\ \\alpha)

    (Mean Teacher; the rising :math:`\\alpha_t` as in DACS, DAFormer and MIC). The copy made here is
    :math:`t = 0`, the first :meth:`update` is :math:`t = 1` with :math:`\\alpha_1 = 1/2`. Until the rising weight meets
    :math:`\\alpha` the teacher is the plain mean of all networks so far; with ``alpha=1`` it stays that.

    Parameters are averaged. Buffers are copied: running statistics are means over time already, and counters or tables
    have no mean. The teacher is always in evaluation mode, whatever :meth:`train` is called with: dropout is off and
    batch normalisation uses its running statistics, so that labels do not depend on what else is in a batch (DAFormer's
    code leaves batch normalisation in training mode; this library's choice).

    One update takes a few fused operations over all parameters, reads nothing back from the device and holds one more
    copy of the parameters meanwhile. Ranks that hold equal networks hold equal teachers: nothing is sent. A network
    that is not finite spoils its teacher.

    Args:
        network: What is taught. Copied, not kept.
        alpha: Highest share of the teacher in an update, 0.999 in DACS, DAFormer and MIC.

    Attributes:
        network: The teacher network; its parameters need no gradient.
        steps: Buffer, int64 scalar: updates so far.

    Raises:
        ValueError: If ``alpha`` is outside 0 .. 1, or a trained parameter has half precision, in which a change of
            0.1 % is lost.

    Example:
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(network.weight)
        >>> teacher = MeanTeacher(network)
        >>> for value in (2.0, 4.0):
        ...     _ = torch.nn.init.constant_(network.weight, value)     # stands for a step of the optimiser
        ...     teacher.update(network)
        >>> teacher.network.weight.item()                              # the mean of 0, 2 and 4
        2.0
    """

    steps: Tensor

    def __init__(self, network: nn.Module, alpha: float = 0.999) -> None:
        super().__init__()
        check_kind("network", network, nn.Module, "an nn.Module")
        alpha = checked_fraction("alpha", alpha)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and parameter.is_floating_point() and parameter.element_size() < 4:
                raise ValueError(
                    f"network must train in float32 or float64, got {parameter.dtype} for {name}: a mean in half "
                    "precision does not move. Keep the parameters in float32 and use torch.autocast."
                )
        self.alpha = alpha
        self.network: nn.Module = deepcopy(network).requires_grad_(False).eval()
        device = next((parameter.device for parameter in network.parameters()), None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the teacher network gives for these inputs, without gradient."""
        return self.network(*inputs, **named)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's present state into the mean: once a step, after the optimiser.

        Args:
            network: The network that this teacher was copied from, or one with the same parameters and buffers.

        Raises:
            ValueError: If names, shapes or devices of parameters or buffers differ. Nothing is changed then.
        """
        check_kind("network", network, nn.Module, "an nn.Module")
        own, new = _tensors("parameters", self.network, network)
        own_buffers, new_buffers = _tensors("buffers", self.network, network)
        self.steps += 1
        if own:
            share = (1 / (self.steps + 1).to(torch.float32)).clamp(min=1 - self.alpha)  # 1 - alpha_t
            change = torch._foreach_sub(new, own)  # the change, not two products: equal networks then stay equal
            torch._foreach_mul_(change, share)
            torch._foreach_add_(own, change)
        if own_buffers:
            torch._foreach_copy_(own_buffers, new_buffers)

    def train(self, mode: bool = True) -> MeanTeacher:
        """Set the mode of this module alone; the teacher network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def extra_repr(self) -> str:
        """The choice, for ``print(module)``."""
        return f"alpha={self.alpha}"


def _tensors(kind: str, teacher: nn.Module, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters or buffers of both, in one order."""
    own: dict[str, Tensor] = dict(getattr(teacher, f"named_{kind}")())
    new: dict[str, Tensor] = dict(getattr(network, f"named_{kind}")())
    # Sets of the names, not own.keys() ^ new.keys(), which torch 2.4 cannot compile.
    odd = sorted(set(own) ^ set(new)) or [name for name in own if own[name].shape != new[name].shape]
    if odd:
        raise ValueError(
            f"network must have the teacher's {kind} in name and shape, got {len(odd)} that differ, first: {odd[0]}. "
            "Pass the network itself, not what wraps it (network.module of DistributedDataParallel)."
        )
    for name, tensor in own.items():
        if new[name].device != tensor.device:
            raise ValueError(
                f"network must be on the teacher's device, got {name} on {new[name].device} and the teacher's on "
                f"{tensor.device}. Move the teacher with .to({str(new[name].device)!r})."
            )
    return list(own.values()), [new[name].detach() for name in own]
