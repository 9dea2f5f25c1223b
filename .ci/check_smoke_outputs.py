"""Check what the smoke run of the main job left behind: seven results, a table that holds them, an offline page."""

import json
import math
import re
import sys
from pathlib import Path

RECIPES = ("source", "aa", "aa+it", "aa+it+sim", "aa+it+sim+ssl", "target-only", "wmix")


def main(out: Path) -> None:
    """Raise on the first thing that is missing or cannot be right."""
    results = {recipe: sorted(out.glob(f"**/{recipe}/seed*/result.json")) for recipe in RECIPES}
    for recipe, files in results.items():
        require(len(files) == 1, f"one result.json of {recipe}", files)
        result = json.loads(files[0].read_text())
        require(0 <= result["miou"] <= 1, f"a mIoU of {recipe} between 0 and 1", result["miou"])
        metrics = [json.loads(line) for line in (files[0].parent / "metrics.jsonl").read_text().splitlines()]
        losses = [value for row in metrics for key, value in row.items() if key.startswith("loss/")]
        require(losses and all(math.isfinite(value) for value in losses), f"finite losses of {recipe}", losses[:5])
        require(metrics[-1]["kind"] == "evaluation", f"an evaluation last in the metrics of {recipe}", metrics[-1])
    page = next(iter(sorted(out.glob("**/index.html"))), None)
    require(page is not None, "a report page index.html", sorted(out.glob("*")))
    assert page is not None
    text = page.read_text()
    require("<img" in text and len(text) > 20_000, "a page with its images inside", len(text))
    outside = re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']+""", text)
    require(not outside, "a page that opens offline", outside[:3])
    table = next(iter(sorted(out.glob("**/table.md"))), None)
    require(table is not None and table.read_text().count("|") > 40, "the ablation table", table)
    print(f"checked: {len(RECIPES)} results, metrics, page and table in the smoke run")


def require(holds: object, wanted: str, came: object) -> None:
    """Stop with what was wanted and what came."""
    if not holds:
        sys.exit(f"smoke run: wanted {wanted}, got {came}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
