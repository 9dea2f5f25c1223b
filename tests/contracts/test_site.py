"""The site: its snippets run, and its reference has every public name once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stuffinstance as si
from stuffinstance import plotting
from tests.code_blocks import code_blocks

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "reference").glob("*.rst"))
MODULES = sorted(
    entry.removesuffix(".py")
    for entry in (path.name for path in (ROOT / "src" / "stuffinstance").iterdir())
    if not entry.startswith("_") and (entry.endswith(".py") or "." not in entry)
)
WITHOUT_A_PAGE = {"distributed"}  # no public name: what it does is documented where it is used


def run(page: str, **names: Any) -> dict[str, Any]:
    code = "\n".join(code_blocks(DOCS / page, "python"))
    assert code
    torch.manual_seed(0)
    exec(compile(code, page, "exec"), names)
    return names


def test_the_tour_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("tour.md")
    matching = names["matching"]
    assert float(matching.stuff.detach()) > 0
    assert matching.instance.grad_fn is not None
    assert "rows written" in capsys.readouterr().out


class Network(nn.Module):
    """Features (B, 8, h, w) and logits (B, 3, h, w) of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 3, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(images)
        return features, self.head(features)


def test_the_plain_loop_trains_twice() -> None:
    batches = [(torch.rand(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))) for _ in range(2)]
    names = run(
        "howto/plain_loop.md",
        network=Network(),
        make_network=Network,
        source_loader=batches,
        target_images=[images for images, _ in batches],
        space=si.LabelSpace(names=("road", "sky", "car"), stuff=(0, 1), things=(2,)),
        feature_dim=8,
        steps=3,
    )
    labels, second = names["labels"], names["second"]
    assert all(label_map.shape == (1, 8, 8) for label_map in labels)
    assert second.body.weight.grad is not None
    assert bool(second.body.weight.grad.isfinite().all())


def test_short_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("howto/own_classes.md")["labels"].tolist() == [[[1, 2], [255, 0]]]
    assert run("howto/resume.md")["step"] == 1000
    capsys.readouterr()
    rules = run("howto/threshold_rule.md")["rules"]
    assert all(isinstance(rule, si.PseudoLabelThreshold) for rule in rules.values())
    assert len(capsys.readouterr().out.splitlines()) == len(rules)


def documented() -> list[str]:
    """What the reference's directives name, as they name it."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE)
    return re.findall(r"^\.\. auto(?:class|function|data|exception):: (\S+)", text, flags=re.MULTILINE)


def test_the_reference_has_every_public_name_once() -> None:
    public = {f"stuffinstance.{name}" for name in si.__all__}
    public |= {f"stuffinstance.plotting.{name}" for name in plotting.__all__}
    assert public <= set(documented())
    assert [name for name, times in Counter(documented()).items() if times > 1] == []


def test_every_module_has_a_page_and_the_index_leads_to_every_page() -> None:
    index = (DOCS / "reference" / "index.rst").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   (\w+)$", index, flags=re.MULTILINE))
    assert listed == {page.stem for page in REFERENCE} - {"index"}
    assert set(MODULES) - WITHOUT_A_PAGE <= listed
    assert set(MODULES) >= WITHOUT_A_PAGE


def test_every_page_is_in_a_toctree() -> None:
    trees = {
        page: re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for page in DOCS.rglob("*.md")
    }
    listed = set()
    for page, blocks in trees.items():
        for entry in "\n".join(blocks).splitlines():
            name = entry.rpartition("<")[2].rstrip(">").strip()
            if name == "*":
                listed |= {other for other in page.parent.glob("*.md") if other != page}
            elif name and not name.startswith(":"):
                listed.add((page.parent / f"{name}.md").resolve())
    assert set(trees) - listed == {DOCS / "index.md"}


def test_every_entry_of_the_bibliography_is_on_its_page() -> None:
    entries = re.findall(r"^% (.+)$", (DOCS / "references.bib").read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = re.findall(r':start-after: "% (.+)"', (DOCS / "citations.md").read_text(encoding="utf-8"))
    assert entries == shown
    assert len(entries) == len(set(entries))
