"""A how-to page about a trainer: the trainer as it was, the lines that the page adds, and what they run on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import stuffinstance as si
from tests.code_blocks import code_blocks

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
MARK = "  # +"


class TrainerPage:
    """One page. Its first block is a whole trainer in which every line that matching needs is marked."""

    def __init__(self, name: str) -> None:
        self.text = (HOWTO / f"{name}.md").read_text(encoding="utf-8")
        self.trainer, *self.further = code_blocks(HOWTO / f"{name}.md", "python")

    @property
    def trainer_before(self) -> str:
        """The trainer without the added lines."""
        return "\n".join(line for line in self.trainer.splitlines() if not line.endswith(MARK))

    def check_count(self) -> None:
        """The page counts right, and no trainer needs more than twenty lines."""
        added = sum(line.endswith(MARK) for line in self.trainer.splitlines())
        assert 0 < added <= 20
        assert re.findall(r"^\*\*(\d+) lines\*\*", self.text, flags=re.MULTILINE) == [str(added)]


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run code of a page where ``names`` are given; what it defines is added to them."""
    exec(compile(code, "page", "exec"), names)
    return names


def seeded(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """The same from the same random numbers, leaving ``names`` as they are."""
    torch.manual_seed(0)
    return run(code, dict(names))


def weights(network: nn.Module) -> Tensor:
    """All weights of a network in one row, copied."""
    return torch.cat([p.detach().flatten().cpu() for p in network.parameters()]).clone()


def banks(sim: si.StuffInstanceMatching) -> dict[str, Tensor]:
    """What matching remembers, copied."""
    return {name: value.clone() for name, value in sim.state_dict().items()}


def check_training(sim: si.StuffInstanceMatching, network: nn.Module, start: Tensor, without: Tensor) -> None:
    """Banks hold finite rows of every class; weights moved, and elsewhere than they do without matching."""
    for bank in (sim.stuff_bank, sim.instance_bank):
        assert bool((bank.written > 0).all()), bank.written
        assert bool(bank.features.isfinite().all())
    assert bool((sim.stuff_bank.written > sim.stuff_bank.capacity).any()), "still warming up: nothing was matched"
    after = weights(network)
    assert bool(after.isfinite().all())
    assert not torch.equal(after, start)
    assert not torch.equal(after, without)
    assert not list(sim.parameters())
