"""What a look at an experiment before it runs has found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from ..data import DatasetError
from ..networks import WeightsError
from ..records.checkpoints import CheckpointError
from ..records.run_folder import RunFolderError
from ..records.written_files import DamagedFileError

Found = TypeVar("Found")
REFUSALS = (CheckpointError, DamagedFileError, DatasetError, OSError, RunFolderError, WeightsError)


class Finding(NamedTuple):
    """One line: ``ok``, a ``note`` that is in nobody's way, or ``missing``, without which the experiment cannot run."""

    kind: Literal["ok", "note", "missing"]
    what: str
    told: str


def attempted(what: str, call: Callable[[], Found], findings: list[Finding]) -> Found | None:
    """What ``call`` returns; where it refuses, its reason is a finding, and None comes back."""
    try:
        return call()
    except REFUSALS as error:
        findings.append(Finding("missing", what, str(error)))
        return None
