"""What banks hold, class by class, in the order of the banks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from stuffinstance.arguments import check_kind
from stuffinstance.banks import MemoryBank
from stuffinstance.labelspace import LabelSpace


class BankClass(NamedTuple):
    """One class: its filled rows (n, D) float32 on the host, how many were ever written, how many fit."""

    number: int
    name: str
    thing: bool
    rows: Tensor
    written: int
    capacity: int


def bank_classes(banks: MemoryBank | Sequence[MemoryBank], space: LabelSpace) -> list[BankClass]:
    """The classes of one bank or of several."""
    check_kind("space", space, LabelSpace)
    several = list(banks) if isinstance(banks, Sequence) else [banks]
    for bank in several:
        check_kind("banks", bank, MemoryBank, "a StuffBank, an InstanceBank or several")
        if bank.classes and max(bank.classes) >= space.num_classes:
            raise ValueError(
                f"banks must hold classes of the space, 0..{space.num_classes - 1}, got {bank.classes}. "
                "Pass the space that the banks were made for."
            )
    return [
        BankClass(k, space.names[k], k in space.things, rows[: min(written, bank.capacity)], written, bank.capacity)
        for bank in several
        for k, rows, written in zip(
            bank.classes, bank.features.detach().float().cpu(), bank.written.tolist(), strict=True
        )
    ]
