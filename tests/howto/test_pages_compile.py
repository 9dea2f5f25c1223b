"""Every page's Python compiles and counts its added lines right, also where a trainer's package is not installed."""

from __future__ import annotations

import pytest

from tests.code_blocks import code_blocks
from tests.howto.trainer_page import HOWTO, MARK, TrainerPage

PAGES = sorted(path.stem for path in HOWTO.glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("name", PAGES)
def test_python_of_the_page_compiles(name: str) -> None:
    blocks = code_blocks(HOWTO / f"{name}.md", "python")
    assert blocks
    for block in blocks:
        compile(block, f"{name}.md", "exec")
    if any(line.endswith(MARK) for line in blocks[0].splitlines()):
        page = TrainerPage(name)
        page.check_count()
        compile(page.trainer_before, f"{name}.md", "exec")
