"""All commands in one program: train, label, evaluate, check, run experiments, report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from ..atomic_io import DamagedFileError
from ..checkpoint import CheckpointError
from ..data import DatasetError
from ..distributed import RankLostError, TooFewImagesError, is_rank_zero, process_group, rank
from ..experiments.runner import RunsFailed
from ..models import WeightsError
from ..recipes import RecipeError
from ..run_dir import RunFolderError
from ..signals import Stopped, interrupted_by_sigterm
from .checkpoint_commands import check, evaluate, pseudo_label
from .commands import ablation, demo, experiment, parts, report, train

app = typer.Typer(
    rich_markup_mode="markdown", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)
EXPECTED = (
    CheckpointError,
    DamagedFileError,
    DatasetError,
    FloatingPointError,
    OSError,  # a full disk, a file or folder that does not exist or cannot be written, a city of other settings
    RankLostError,
    RecipeError,
    RunFolderError,
    RunsFailed,
    TooFewImagesError,
    WeightsError,
)
# Raised by every rank alike, or also by rank 0: rank 0 alone reports them.
RANK_ZERO_REPORTS = (
    CheckpointError,
    FloatingPointError,
    RecipeError,
    RunFolderError,
    TooFewImagesError,
    WeightsError,
)


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, with a message for Ctrl-C and SIGTERM where nothing has to be saved."""

    @wraps(command)
    def run(*given: Any, **named: Any) -> None:
        try:
            with interrupted_by_sigterm():
                command(*given, **named)
        except KeyboardInterrupt:
            text = "Interrupted. What has been written is kept; the same command goes on from there."
            raise Stopped(text) from None

    return run


for command in (train, parts, pseudo_label, evaluate, check, ablation, experiment, demo, report):
    app.command()(interruptible(command))


def main() -> None:
    """Run a command, alone or as one of the ranks of ``torchrun``; errors that users can correct have no traceback."""
    try:
        with process_group():
            logging.basicConfig(level=logging.WARNING if is_rank_zero() else logging.ERROR, format="%(message)s")
            app()
    except EXPECTED as error:
        if is_rank_zero() or not (isinstance(error, RANK_ZERO_REPORTS) or getattr(error, "raised_on_rank_zero", False)):
            who = "" if is_rank_zero() else f"rank {rank()}: "
            typer.echo(f"{typer.style('error:', fg='red')} {who}{error}", err=True)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        typer.echo(
            f"{typer.style('error:', fg='red')} rank {rank()}: not enough memory for the settings "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). Lower data.batch, the sizes, "
            "matching.capacity or network.options, set runtime.accumulate_grad_batches, or give --jobs 1.",
            err=True,
        )
        sys.exit(1)
    except Stopped as stop:
        if is_rank_zero():
            typer.echo(str(stop), err=True)
        sys.exit(130)


def _lacks_memory(error: Exception) -> bool:
    """Whether an allocation failed, for which torch raises a plain RuntimeError on a CPU."""
    messages = ("allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in messages)
