"""The rule by which ``torch.func.vmap`` carries an operator of label maps over one more dimension."""

from typing import Any

import torch
from torch import Tensor


def register_vmap_rule(name: str) -> None:
    """Let :func:`torch.func.vmap` pass what it maps over to an operator as more images.

    Before torch 2.5 there is nowhere to register a rule, and vmap calls the operator once for each of them.

    Args:
        name: An operator of label maps (B, ...) and settings that returns tensors (B, ...).
    """
    if not hasattr(torch.library, "register_vmap"):
        return
    namespace, _, operator = name.partition("::")

    def rule(info: Any, in_dims: tuple[int | None, ...], labels: Tensor, *settings: Any) -> tuple[Any, Any]:
        mapped = labels.movedim(in_dims[0] or 0, 0)  # the labels are all there is to map over
        run = getattr(getattr(torch.ops, namespace), operator)
        found = run(mapped.flatten(0, 1), *settings)
        if isinstance(found, Tensor):
            return found.reshape(*mapped.shape[:2], *found.shape[1:]), 0
        return tuple(each.reshape(*mapped.shape[:2], *each.shape[1:]) for each in found), (0,) * len(found)

    torch.library.register_vmap(name, rule)
