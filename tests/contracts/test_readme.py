"""What the README shows can be typed: its code runs, its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import stuffinstance as si
from tests.code_blocks import code_blocks

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lines_that_add_it_to_a_trainer_run() -> None:
    (code,) = code_blocks(ROOT / "README.md", "python")
    features = {name: torch.randn(1, 2048, 4, 6, requires_grad=True) for name in ("source", "target")}
    names: dict[str, object] = {"loss": torch.zeros(())}
    for domain, maps in features.items():
        names[f"{domain}_features"] = maps
        names[f"{domain}_logits"] = torch.randn(1, si.CITYSCAPES.num_classes, 4, 6)
    names["source_labels"] = torch.randint(0, 19, (1, 32, 48))
    exec(compile(code, "README.md", "exec"), names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("...")]) <= 6


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))))
def test_the_commands_exist(command: str) -> None:
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_files_that_are_linked_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", README) if "://" not in target]
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert targets
    assert not missing


@pytest.mark.parametrize(
    "name", re.findall(r"`([A-Z]\w+|[a-z]+_\w+)`", README.split("## What is in it")[1].split("Good to know")[0])
)
def test_names_in_the_table_are_public(name: str) -> None:
    assert name in si.__all__ or name in {"l1_mean", "l1_squared"}
