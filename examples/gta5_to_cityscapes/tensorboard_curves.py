"""The same numbers as ``metrics.jsonl``, as TensorBoard curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Writes scalars; without a folder it writes nothing and imports nothing."""

    def __init__(self, folder: Path | None, last_step: int) -> None:
        self._writer: SummaryWriter | None = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            # What an earlier part of this run wrote beyond its checkpoint is hidden by purge_step.
            self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """One point on each curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._writer is not None:
            self._writer.close()
