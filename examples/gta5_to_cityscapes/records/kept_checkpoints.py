"""The checkpoints that a run keeps: the newest, and those before it for when that one is damaged."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from .written_files import written_beside

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptCheckpoints:
    """``last.pt`` in a folder, beside it the ones before it, named after their steps."""

    folder: Path

    @property
    def newest(self) -> Path:
        """Where the last checkpoint lies."""
        return self.folder / "last.pt"

    @property
    def earlier(self) -> list[Path]:
        """The ones before it, the latest first."""
        return sorted(self.folder.glob("step*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)

    def save(self, content: dict[str, Any], *, keep: int, replaced: int | None) -> None:
        """Write the newest; at no moment is there none.

        Args:
            content: As for :func:`~.checkpoints.save_checkpoint`.
            keep: How many stay, this one among them.
            replaced: Step of the one that is the newest until now, None where there is none.
        """
        if replaced is not None and keep > 1:
            _give_second_name(self.newest, self.folder / f"step{replaced:06}.pt")
        save_checkpoint(self.newest, content)
        for path in self.earlier[keep - 1 :]:
            path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The content of the newest whole one, which then is ``newest``; None where there is none at all.

        A damaged one is warned of and set aside, with ``.damaged`` added to its name.

        Raises:
            CheckpointError: If every one is damaged.
        """
        found = [path for path in (self.newest, *self.earlier) if path.is_file()]
        problems: list[str] = []
        for path in found:
            try:
                content = load_checkpoint(path)
            except CheckpointError as error:
                problems.append(str(error.__cause__ or error))
                continue
            self._make_newest(path, found[: len(problems)], int(content["step"]))
            return content
        if found:
            told = "; ".join(f"{path.name} ({problem})" for path, problem in zip(found, problems, strict=True))
            raise CheckpointError(
                f"checkpoints {self.folder}: expected one to go on from, could not read any: {told}. "
                "Put a copy of one in their place, or delete that folder, and the run will start again."
            )
        return None

    def _make_newest(self, path: Path, damaged: list[Path], step: int) -> None:
        if path == self.newest:
            return
        for each in damaged:
            each.replace(each.with_name(f"{each.name}.damaged"))
        path.replace(self.newest)
        what = f"{' and '.join(each.name for each in damaged)} cannot be read" if damaged else "last.pt is gone"
        aside = "; it is set aside with .damaged added to its name, and can be deleted" if damaged else ""
        logger.warning(
            "checkpoints %s: %s, going on from the one before, of step %d%s.", self.folder, what, step, aside
        )


def _give_second_name(path: Path, name: Path) -> None:
    """Let ``name`` keep the content of ``path``, which is about to be replaced."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without links
        with written_beside(name) as beside:
            shutil.copyfile(path, beside)
