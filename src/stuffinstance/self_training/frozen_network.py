"""A network with the weights that it has now, to compare with while it trains on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stuffinstance._checks import check_kind
from stuffinstance.self_training.detached_copy import detached_copy, unwrapped


class FrozenNetwork(nn.Module):
    """Frozen network: a copy that is never trained and never saved, for features that training must not move.

    It gives what :class:`FeatureDistanceLoss` and :class:`FoundationFeatureLoss` compare with: the encoder with its
    start weights, or a foundation model. It is in evaluation mode whatever ``train`` is called with, here or on a
    module that holds it, and computes without gradient.

    The copy is not a submodule: neither ``parameters()`` nor ``state_dict()`` of a model that holds it list its
    tensors, so that no optimizer, average, ``DistributedDataParallel`` or checkpoint has them. ``.to()``, ``.cuda()``
    and ``.half()`` move it along, and ``to_empty`` empties it too. Make it anew from its weights' file when training
    resumes; only ``torch.save(module)``, ``pickle`` and ``copy.deepcopy`` carry it.

    Images are not normalized here: pass what the network itself takes, a foundation model's own normalization.

    Args:
        network: Copied as :class:`MeanTeacher` copies it, not kept.

    Attributes:
        network: The copy.

    Raises:
        TypeError: If ``network`` is not a module, or holds something that cannot be copied.
        ValueError: If a parameter or buffer is on ``meta``: the copy would never get its values.

    Example:
        >>> encoder = torch.nn.Conv2d(3, 8, 4, stride=4)
        >>> start = FrozenNetwork(encoder)
        >>> features = start(torch.rand(2, 3, 8, 8))
        >>> features.shape, features.requires_grad, list(start.state_dict())
        (torch.Size([2, 8, 2, 2]), False, [])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        check_kind("network", network, nn.Module, "an nn.Module")
        if any(each.is_meta for each in chain(network.parameters(), network.buffers())):
            raise ValueError("network must hold its weights, got parameters or buffers on meta. Load them first.")
        # In a list: not a submodule.
        self._network = [detached_copy(unwrapped(network)).requires_grad_(False).eval()]

    @property
    def network(self) -> nn.Module:
        """The copy, which is not a submodule."""
        return self._network[0]

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the frozen network gives for these inputs, without gradient."""
        return self.network(*inputs, **named)

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(self, *inputs: Any, **named: Any) -> Any: ...

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        """Move the copy along: ``.to()`` and its kin end here."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
