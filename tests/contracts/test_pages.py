"""The README, the site and its pages: snippets run and train; named recipes, settings, names, files and pages exist."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stuffinstance as si
from examples.gta5_to_cityscapes.recipes import compose_recipe, parts, preset_named
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


def test_the_names_beside_citations_are_public() -> None:
    named = set(re.findall(r"`([A-Za-z_]+)[`(]", (DOCS / "citations.md").read_text(encoding="utf-8")))
    assert named - set(si.__all__) == set()


SYSTEMS = ROOT / "docs" / "systems"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OVERVIEW = (SYSTEMS / "README.md").read_text(encoding="utf-8")
TABLE = [[cell.strip() for cell in line.split("|")[1:-1]] for line in OVERVIEW.splitlines() if line.startswith("| ")]
ROWS = [row for row in TABLE if len(row) == 5 and row[0] != "system"]


SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in sorted(SYSTEMS.glob("*.md"))
    for i, code in enumerate(code_blocks(page, "python"))
]
RECIPES = sorted(
    {
        name
        for page in SYSTEMS.glob("*.md")
        for block in code_blocks(page, "sh")
        for name in re.findall(r"gta5_to_cityscapes train (\S+)", block)
    }
)


class ModelConfig(nn.Module):
    """A network that distinguishes three colors: features (B, 256, h, w) of stride 8, logits (B, 19, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 256, 8, stride=8)
        self.head = nn.Conv2d(256, 19, 1)
        with torch.no_grad():
            self.backbone.weight[:3] = 5 * torch.eye(3)[:, :, None, None] / 64
            self.head.weight[[0, 8, 13], [0, 1, 2]] += 1

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        return features, self.head(features)


def images() -> tuple[Tensor, Tensor]:
    """Two images of road, vegetation and cars with their labels."""
    thirds = torch.randint(0, 3, (2, 2, 2)).repeat_interleave(64, 1).repeat_interleave(64, 2)
    images = F.one_hot(thirds, 3).movedim(3, 1) + 0.1 * torch.rand(2, 3, 128, 128)
    return images, torch.tensor([0, 8, 13])[thirds]


def trainer() -> dict[str, Any]:
    """The names that docs/systems/README.md says a trainer has."""
    network = ModelConfig()
    (source_images, source_labels), (target_images, _) = images(), images()
    source_features, source_logits = network(source_images)
    target_features, target_logits = network(target_images)

    def upsampled(maps: Tensor) -> Tensor:
        return F.interpolate(maps, (128, 128), mode="bilinear", align_corners=True)

    return {
        "network": network,
        "source_images": source_images,
        "source_labels": source_labels,
        "target_images": target_images,
        "source_features": source_features,
        "source_logits": source_logits,
        "target_features": target_features,
        "target_logits": target_logits,
        "upsampled": upsampled,
        "loss": torch.zeros(()),
        "source_loader": [images() for _ in range(2)],
        "target_loader": [images()[0] for _ in range(2)],
        "network_a": ModelConfig(),
        "network_b": ModelConfig(),
        "pairs_loader": [(images()[0], images()[0])],
    }


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_runs_and_trains_the_network(code: str) -> None:
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("...")]) <= 15
    names = trainer()
    before = names["loss"]
    exec(compile(code, "snippet", "exec"), names)
    loss, network = names["loss"], names["network"]
    if loss is before:
        return  # it labels or measures
    assert bool(loss.isfinite())
    assert float(loss.detach()) != 0
    if network.backbone.weight.grad is None:
        loss.backward()
    gradient = network.backbone.weight.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).any())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_the_pages_can_be_composed(name: str) -> None:
    assert compose_recipe(name).name == name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_of_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for item in re.findall(r"--set ([^\s`]+)", text):
        preset_named("full", [item])
    full = preset_named("full").model_dump()
    groups = full | full["methods"]
    for line in text.splitlines():
        group = ""
        for named, setting in re.findall(r"`(\w*)\.(\w+)`", line) if line.startswith("|") else ():
            group = named or group
            if group in groups:
                assert setting in groups[group], f"{group}.{setting}"


@pytest.mark.parametrize("part", list(parts()))
def test_every_part_is_in_the_table(part: str) -> None:
    assert any(f"`{part}`" in row[3] for row in ROWS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_linked_exist(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", prose) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_reached_from_the_overview() -> None:
    linked = {(SYSTEMS / link).resolve() for link in re.findall(r"\]\(([^)#\s]+\.md)", OVERVIEW)}
    pages = set(SYSTEMS.glob("*.md")) - {SYSTEMS / "README.md", SYSTEMS / "results.md"}
    assert pages <= linked


def test_the_lines_that_add_it_to_a_trainer_run() -> None:
    (code,) = code_blocks(ROOT / "README.md", "python")
    features = {name: torch.randn(1, 2048, 4, 6, requires_grad=True) for name in ("source", "target")}
    names: dict[str, Any] = {"loss": torch.zeros(())}
    for domain, maps in features.items():
        names[f"{domain}_features"] = maps
        names[f"{domain}_logits"] = torch.randn(1, si.CITYSCAPES.num_classes, 4, 6)
    names["source_labels"] = torch.randint(0, 19, (1, 32, 48))
    exec(compile(code, "README.md", "exec"), names)
    loss = names["loss"]
    loss.backward()
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("...")]) <= 6


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))))
def test_the_commands_exist(command: str) -> None:
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


NAMED = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[2])}
NAMED |= set(re.findall(r"`([A-Z]\w+|[a-z]+_\w+)`", README.split("## What is in it")[1].split("Good to know")[0]))


@pytest.mark.parametrize("name", sorted(NAMED - {"l1_mean", "l1_squared"}))
def test_names_in_the_tables_are_public(name: str) -> None:
    assert name in si.__all__
