"""All commands in one program: train, label, evaluate, check, run experiments, report."""

from __future__ import annotations

import logging
import sys

import typer

from ..data import DatasetError
from ..experiments.processes import RunsFailed
from ..networks import WeightsError
from ..recipes import RecipeError
from ..records.checkpoints import CheckpointError
from ..records.run_folder import RunFolderError
from ..records.stopping import Stopped
from ..records.written_files import DamagedFileError, FullDiskError
from .checkpoint_commands import check, evaluate, pseudo_label
from .experiment_command import experiment
from .run_commands import ablation, demo, parts, report, train

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)
EXPECTED = (
    CheckpointError,
    DamagedFileError,
    DatasetError,
    FileNotFoundError,
    FloatingPointError,
    FullDiskError,
    NotADirectoryError,
    PermissionError,
    RecipeError,
    RunFolderError,
    RunsFailed,
    WeightsError,
)
for command in (train, parts, pseudo_label, evaluate, check, ablation, experiment, demo, report):
    app.command()(command)


def main() -> None:
    """Run a command; what a person can put right is told without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app()
    except EXPECTED as error:
        typer.echo(f"{typer.style('error:', fg='red')} {error}", err=True)
        sys.exit(1)
    except Stopped as stop:
        typer.echo(str(stop), err=True)
        sys.exit(130)
