"""Mean teacher: the moving average of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stuffinstance._checks import check_kind, checked_flag, checked_fraction
from stuffinstance.self_training.detached_copy import detached_copy, unwrapped

_Tensors = tuple[list[Tensor], list[Tensor]]  # the teacher's, and those of the network in the same order
_Assigned = list[tuple[nn.Module, str, Tensor | None]]  # a teacher's buffer and what it becomes


class MeanTeacher(nn.Module):
    """Mean teacher (Tarvainen and Valpola, NeurIPS 2017): exponential moving average of a network's parameters.

    .. math:: \\theta'_t = \\alpha_t \\theta'_{t-1} + (1 - \\alpha_t) \\theta_t, \\qquad
              \\alpha_t = \\min(1 - \\tfrac{1}{t + 1},\\ \\alpha)

    (https://arxiv.org/abs/1703.01780; the rising :math:`\\alpha_t` as in DACS, DAFormer and MIC). The copy made here is
    :math:`t = 0`, the first :meth:`update` is :math:`t = 1` with :math:`\\alpha_1 = 1/2`. Until the rising weight meets
    :math:`\\alpha` the teacher is the plain mean of all networks so far; with ``alpha=1`` it stays that. With
    ``ramp=False`` :math:`\\alpha_t = \\alpha` from the first update on, for a network that was trained before.

    Parameters are averaged. Buffers are copied: running statistics are means over time already, and counters or tables
    have no mean. The teacher is always in evaluation mode, whatever :meth:`train` is called with: dropout is off and
    batch normalization uses its running statistics, so that labels do not depend on what else is in a batch (DAFormer's
    code leaves batch normalization in training mode; this library's choice).

    One update takes a few fused operations over all parameters, reads nothing back from the device and holds one more
    copy of the parameters meanwhile. Ranks that hold equal networks hold equal teachers: nothing is sent. A network
    that is not finite spoils its teacher.

    **What is copied.** The network inside ``torch.compile(network)``, ``DistributedDataParallel`` and ``DataParallel``,
    so that the teacher's state has the same names with and without them; compile the teacher with
    ``teacher.network.compile()``. Hooks that were registered on the network from outside (functions, closures, methods
    of other objects) are omitted: run by the teacher, one that keeps features would replace the student's with the
    teacher's, which have no gradient. A network whose output such a hook changes needs it on ``teacher.network`` too.
    Hooks that are methods of the network's own modules, or of ``torch.nn.utils`` (weight norm, spectral norm, pruning),
    are copied. Tied parameters are averaged once; reparametrized ones (``torch.nn.utils.parametrizations``) as they are
    trained, before the reparametrization.

    **Averaging callbacks** (``torch.optim.swa_utils.AveragedModel``, Lightning's ``WeightAveraging``) average all that
    is in the module they are given: construct them with ``use_buffers=False``, which copies ``steps`` and the rows of
    banks, and keep the teacher outside of that module where its parameters shall not be averaged twice.

    Args:
        network: What is taught. Copied, not kept.
        alpha: Highest share of the teacher in an update, 0.999 in DACS, DAFormer and MIC.
        ramp: Whether that share rises to ``alpha``, or is ``alpha`` in every update.
        teacher: The module that becomes the teacher network, for networks that cannot be copied: a second one, built
            as ``network`` was. It is kept, given the values of ``network``'s parameters and buffers, and keeps its
            hooks. Default: a copy of ``network``.

    Attributes:
        network: The teacher network; its parameters need no gradient.
        steps: Buffer, int64 scalar: updates so far.

    Raises:
        TypeError: If ``network`` or ``teacher`` is not a module, ``network`` holds something that cannot be copied, or
            ``ramp`` is not True or False.
        ValueError: If ``alpha`` is outside 0 .. 1, a trained parameter has half precision, in which a change of 0.1 %
            is lost, a parameter is not initialized yet (lazy modules), or ``teacher`` has other parameters or buffers
            than ``network`` or shares one with it.

    Example:
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(network.weight)
        >>> teacher = MeanTeacher(network)
        >>> for value in (2.0, 4.0):
        ...     _ = torch.nn.init.constant_(network.weight, value)     # stands for a step of the optimizer
        ...     teacher.update(network)
        >>> teacher.network.weight.item()                              # the mean of 0, 2 and 4
        2.0
    """

    steps: Tensor

    def __init__(
        self, network: nn.Module, alpha: float = 0.999, *, teacher: nn.Module | None = None, ramp: bool = True
    ) -> None:
        super().__init__()
        check_kind("network", network, nn.Module, "an nn.Module")
        if teacher is not None:
            check_kind("teacher", teacher, nn.Module, "an nn.Module or None")
        self.alpha = checked_fraction("alpha", alpha)
        self.ramp = checked_flag("ramp", ramp)
        network = unwrapped(network)
        _check_trained(network)
        if teacher is None:
            self.network = detached_copy(network)
        else:
            self.network = unwrapped(teacher)
            _check_built_alike(self.network, network)
        _separate_buffers(self.network)
        if teacher is not None:
            averaged, copied, assigned = _pairs(self.network, network)
            with torch.no_grad():
                _copy((averaged[0] + copied[0], averaged[1] + copied[1]), assigned)
        self.network.requires_grad_(False).eval()
        device = next((parameter.device for parameter in network.parameters()), None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the teacher network gives for these inputs, without gradient."""
        return self.network(*inputs, **named)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's present state into the mean: once a step, after the optimizer.

        Buffers are followed in any size: one that the network has assigned anew, resized, set or unset is set so here.

        Args:
            network: The network that this teacher was copied from, or one with the same parameters and buffers.

        Raises:
            ValueError: If names or devices of parameters or buffers, or shapes of parameters differ. Nothing is changed
                then.
        """
        check_kind("network", network, nn.Module, "an nn.Module")
        network = unwrapped(network)
        (own, new), copied, assigned = _pairs(self.network, network)
        self.steps += 1
        if own:
            least = 1 - self.alpha
            share = (1 / (self.steps + 1).to(torch.float32)).clamp(min=least) if self.ramp else least  # 1 - alpha_t
            change = torch._foreach_sub(new, own)  # the change, not two products: equal networks then stay equal
            torch._foreach_mul_(change, share)
            torch._foreach_add_(own, change)
        _copy(copied, assigned)

    def train(self, mode: bool = True) -> MeanTeacher:
        """Set the mode of this module alone; the teacher network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def extra_repr(self) -> str:
        """The choices, for ``print(module)``."""
        return f"alpha={self.alpha}, ramp={self.ramp}"


def _check_trained(network: nn.Module) -> None:
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"network must have all its parameters and buffers, got {name} that is not initialized yet. Run the "
                "network once before the teacher is made."
            )
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.element_size() < 4:
            raise ValueError(
                f"network must train in float32 or float64, got {parameter.dtype} for {name}: a mean in half "
                "precision does not move. Keep the parameters in float32 and use torch.autocast."
            )


def _check_built_alike(teacher: nn.Module, network: nn.Module) -> None:
    """Require a handed-in teacher to share no tensor with the network, and to have its parameters' dtypes."""
    held = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]} - {0}
    for name, tensor in [*teacher.named_parameters(), *teacher.named_buffers()]:
        if tensor.untyped_storage().data_ptr() in held:
            raise ValueError(
                f"teacher must share no tensor with network, got {name} in both. Build a second network instead."
            )
    dtypes = {name: parameter.dtype for name, parameter in network.named_parameters(remove_duplicate=False)}
    for name, parameter in teacher.named_parameters():
        if dtypes.get(name, parameter.dtype) != parameter.dtype:
            raise ValueError(
                f"teacher must have the dtypes of network's parameters, got {parameter.dtype} for {name} and "
                f"{dtypes[name]} in network. Move one with .to({dtypes[name]})."
            )


def _separate_buffers(teacher: nn.Module) -> None:
    """Give each buffer its own memory, so that it can follow the network's where that assigns its own anew."""
    seen = set()
    for module in teacher.modules():
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            expanded = any(stride == 0 and size > 1 for size, stride in zip(buffer.shape, buffer.stride(), strict=True))
            if id(buffer) in seen or expanded:
                module._buffers[name] = buffer.clone(memory_format=torch.contiguous_format)
            seen.add(id(buffer))


def _pairs(teacher: nn.Module, network: nn.Module) -> tuple[_Tensors, _Tensors, _Assigned]:
    """What is averaged, what is copied, and the buffers that have another size now or are set in only one of both."""
    own, new = _parameters(teacher, network)
    own_buffers, new_buffers, assigned = _buffers(teacher, network)
    for teachers, networks in ((own, new), (own_buffers, new_buffers)):
        for name, here in teachers.items():
            there = networks[name]
            if here.device != there.device:
                raise ValueError(
                    f"network must be on the teacher's device, got {name} on {there.device} and the teacher's on "
                    f"{here.device}. Move the teacher with .to({str(there.device)!r})."
                )
    averaged = [name for name in own if own[name].is_floating_point() or own[name].is_complex()]
    whole = [name for name in own if not own[name].is_floating_point() and not own[name].is_complex()]
    return (
        ([own[name] for name in averaged], [new[name].detach() for name in averaged]),
        (
            [own[name] for name in whole] + list(own_buffers.values()),
            [new[name].detach() for name in whole] + [new_buffers[name].detach() for name in own_buffers],
        ),
        assigned,
    )


def _parameters(teacher: nn.Module, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters of both by name: of tied ones the first name in the teacher."""
    own: dict[str, Tensor] = dict(teacher.named_parameters())
    new: dict[str, Tensor] = dict(network.named_parameters())
    # Sets of the names, not own.keys() ^ new.keys(), which torch 2.4 cannot compile.
    if set(own) != set(new):
        every: dict[str, Tensor] = dict(teacher.named_parameters(remove_duplicate=False))
        new = dict(network.named_parameters(remove_duplicate=False))
        _check_names("parameters", set(every), set(new))
        first = {id(tensor): name for name, tensor in own.items()}
        for name, tensor in every.items():
            if new[name] is not new[first[id(tensor)]]:
                raise ValueError(
                    f"network must tie the parameters that the teacher ties, got {name} apart from "
                    f"{first[id(tensor)]}. Make a new MeanTeacher where the network has changed."
                )
    for name, tensor in own.items():
        if new[name].shape != tensor.shape:
            raise ValueError(
                f"network must have the teacher's parameters in name and shape, got {name} {tuple(new[name].shape)} "
                f"and the teacher's {tuple(tensor.shape)}. Make a new MeanTeacher where the network has changed."
            )
    return own, new


def _buffers(teacher: nn.Module, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor], _Assigned]:
    """Buffers of one shape in both by name, and what becomes of the teacher's others."""
    own: dict[str, Tensor] = dict(teacher.named_buffers())
    new: dict[str, Tensor] = dict(network.named_buffers())
    assigned: _Assigned = []
    if set(own) != set(new) or any(own[name].shape != new[name].shape for name in own):
        places, theirs = _registered_buffers(teacher), _registered_buffers(network)
        _check_names("buffers", set(places), set(theirs))
        for name, (module, key) in places.items():
            here, there = module._buffers[key], theirs[name][0]._buffers[key]
            if here is not None and there is not None and here.shape == there.shape:
                own[name], new[name] = here, there
                continue
            own.pop(name, None)
            if here is not None or there is not None:
                assigned.append((module, key, there))
    return own, new, assigned


def _registered_buffers(network: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each buffer is, also those that are None."""
    return {
        f"{path}.{key}" if path else key: (module, key)
        for path, module in network.named_modules(remove_duplicate=False)
        for key in module._buffers
    }


def _check_names(kind: str, own: set[str], new: set[str]) -> None:
    odd = sorted(own ^ new)
    if odd:
        holder = "the teacher" if odd[0] in own else "network"
        raise ValueError(
            f"network must have the teacher's {kind} in name and shape, got {len(odd)} that differ, first: {odd[0]}, "
            f"which only {holder} has. Pass the network itself, not what wraps it, and make a new MeanTeacher where it "
            "has changed."
        )


def _copy(tensors: _Tensors, assigned: _Assigned) -> None:
    if tensors[0]:
        torch._foreach_copy_(*tensors)
    for module, name, buffer in assigned:
        module._buffers[name] = None if buffer is None else buffer.detach().clone()
