"""Data flows one way through the package, and so do its imports."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import stuffinstance

ROOT = Path(stuffinstance.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A room may import those before it, and any may import the first ones.
ANYWHERE = ("_checks", "_warnings", "_backends", "_compiled", "_numerics", "distributed", "_state")
FLOW = ("label_space", "label_maps", "regions", "pooling", "banks", "losses", "sim")
# Beside the flow: the first ones, and the rooms named.
ASIDE = {
    "class_balance": (),
    "style_transfer": (),
    "pseudo_labels": (),
    "self_training": ("losses",),
    "metrics": ("label_space", "label_maps", "regions", "pooling", "losses", "pseudo_labels"),
    "plotting": ("label_space", "regions", "banks", "losses", "pseudo_labels", "metrics"),
    "__main__": ("regions", "pooling"),
}
DEPENDENCIES = {"torch", "numpy", "skimage", "kornia"}
OPTIONAL = {
    "triton_unionfind.py": {"triton"},
    "triton_sums.py": {"triton"},
    "_compiled.py": {"numba"},
    "plotting": {"matplotlib"},
}  # backends, and a room, whose package is an extra
BANNED_NAMES = {"utils", "common", "helpers", "misc"}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports out in full"
            names = [node.module or ""]
            if node.module == "stuffinstance":
                names = [f"stuffinstance.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("stuffinstance.")}
    return rooms


def allowed(room: str) -> set[str]:
    if room in ANYWHERE:
        return set(ANYWHERE[: ANYWHERE.index(room) + 1])
    if room in ASIDE:
        return {room, *ANYWHERE, *ASIDE[room]}
    return {*ANYWHERE, *FLOW[: FLOW.index(room) + 1]}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p != ROOT / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_follow_the_flow(path: Path) -> None:
    room = room_of(path)
    assert room in {*ANYWHERE, *FLOW, *ASIDE}, f"{room} has no place in the flow: give it one here"
    assert imported_rooms(path) <= allowed(room)


def test_only_the_four_packages_are_imported() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"stuffinstance"}
            allowed_here = DEPENDENCIES | OPTIONAL.get(path.name, set()) | OPTIONAL.get(room_of(path), set())
            assert outside <= allowed_here, f"{path}: {outside}"


def test_files_are_named_for_what_they_produce_and_stay_readable() -> None:
    for path in FILES:
        assert not BANNED_NAMES & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}, path
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_oracles_import_nothing_of_the_package() -> None:
    for name in ("oracles.py", "label_maps.py", "random_cases.py"):
        assert not imported_rooms(Path(__file__).parents[1] / name)
        assert "import stuffinstance" not in (Path(__file__).parents[1] / name).read_text()
