"""The pipeline's rooms and files import one way, and each file can be read in one sitting."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import examples.gta5_to_cityscapes

ROOT = Path(examples.gta5_to_cityscapes.__file__).parent
# A room may import those before it; settings, data, methods and recipes describe each other.
FLOW = (
    ("console",), ("atomic_io",), ("signals", "input_files", "metrics_log", "checkpoint"), ("distributed",),
    ("models",), ("config", "data", "methods", "recipes"), ("run_dir",), ("training",), ("report",), ("experiments",),
    ("preflight",), ("cli",),
)  # fmt: skip
PLACE = {room: place for place, rooms in enumerate(FLOW) for room in rooms}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or not path.name.startswith("__"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Other rooms that a file imports from, wherever in the file it does."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    outside = [node for node in nodes if node.level == len(path.relative_to(ROOT).parts)]
    names = [[node.module.split(".")[0]] if node.module else [alias.name for alias in node.names] for node in outside]
    return {name for each in names for name in each} - {room_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way_and_files_stay_readable(path: Path) -> None:
    room = room_of(path)
    later = {(room, other) for other in imported_rooms(path) if PLACE[other] > PLACE[room]}
    assert later == set()
    assert len(path.read_text().splitlines()) <= 400


def test_every_room_is_on_the_way() -> None:
    assert {room_of(path) for path in FILES} == set(PLACE)
    readme = (ROOT / "README.md").read_text()
    assert [room for room in PLACE if (ROOT / room).is_dir() and f"`{room}/`" not in readme] == []
