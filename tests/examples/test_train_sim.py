"""The one-file example trains both stages on the generated city."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples import train_sim
from examples.gta5_to_cityscapes.data.training_data import Folders


def arguments(streets: Folders, out: Path, *more: str) -> list[str]:
    sizes = ["--height", "48", "--width", "96", "--steps", "3", "--batch-size", "2", "--log-every", "1"]
    return ["--source", str(streets.source), "--target", str(streets.target), "--out", str(out), *sizes, *more]


def test_both_stages_write_weights_pseudo_labels_and_scores(
    streets: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = train_sim.main(arguments(streets, tmp_path, "--preset", "paper"))
    assert list(scores) == ["stage 1", "stage 2"]
    assert all(0 <= score <= 1 for score in scores.values())
    first, second = (torch.load(tmp_path / f"stage{stage}.pt") for stage in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    written = sorted((tmp_path / "pseudo_labels").glob("*.png"))
    assert written
    ids = np.unique(np.concatenate([np.asarray(Image.open(path)).ravel() for path in written]))
    assert set(ids.tolist()) <= {*range(19), 255}
    shown = capsys.readouterr().out
    assert "stage 2 step     3" in shown
    assert "stuff 0.0000" not in shown.split("stage 1 step     3")[1].splitlines()[0]  # matching has begun


def test_the_same_seed_gives_the_same_weights(streets: Folders, tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        train_sim.main(arguments(streets, tmp_path / name, "--seed", "3"))
        runs.append(torch.load(tmp_path / name / "stage2.pt"))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
