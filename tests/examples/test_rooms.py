"""The pipeline's rooms stand in reading order, and imports point one way along it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import examples.gta5_to_cityscapes

ROOT = Path(examples.gta5_to_cityscapes.__file__).parent
ROOMS = ("ranks", "data", "networks", "recipes", "records", "batches", "training", "report", "experiments", "commands")
FILES = sorted(ROOT.glob("*/**/*.py"))


def imported_rooms(path: Path) -> set[str]:
    """Other rooms that a file imports from, wherever in the file it does."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    out_of_the_room = len(path.relative_to(ROOT).parts)
    return {(node.module or "").split(".")[0] for node in nodes if node.level == out_of_the_room}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way_and_files_stay_readable(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert imported_rooms(path) <= set(ROOMS[: ROOMS.index(room)])
    assert len(path.read_text().splitlines()) < 300


def test_every_room_is_on_the_way() -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)
    readme = (ROOT / "README.md").read_text()
    places = [readme.index(f"| `{room}/`") for room in ROOMS]
    assert places == sorted(places)
