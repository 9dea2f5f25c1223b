"""What a process does that is killed while it trains; processes find these by their names."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from examples.gta5_to_cityscapes import atomic_io as written_files
from examples.gta5_to_cityscapes.data.training_data import Folders, open_training_data
from examples.gta5_to_cityscapes.recipes import Recipe
from examples.gta5_to_cityscapes.run_dir import RunFolder
from examples.gta5_to_cityscapes.training.loop import train

PRELOADED = [
    __name__,
    "pytest",
    "skimage.measure",
    "torch._dynamo",
]  # once, in the process that all others are forked from


def train_here(recipe: Recipe, folders: Folders, out: Path, events: Connection, death: Sequence[Any] = ()) -> None:
    """Train, telling of every event; with ``death`` = (name of a function below, further arguments) until then."""
    if death:
        {each.__name__: each for each in (while_saving, while_renaming, while_beginning)}[death[0]](*death[1:])
    data = open_training_data(recipe, folders)
    train(recipe, RunFolder(out), data, device=torch.device("cpu"), watch=events.send)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def while_saving(nth: int, share: float) -> None:
    """Half of the n-th checkpoint, or another share of it, has been written."""
    save, saved = torch.save, 0

    def save_a_part(content: object, file: Any) -> None:
        nonlocal saved
        saved += 1
        save(content, file)
        if saved == nth:
            file.flush()
            os.truncate(file.fileno(), int(share * os.fstat(file.fileno()).st_size))
            _die()

    torch.save = save_a_part


def while_renaming(name: str, nth: int, after: bool) -> None:
    """A file of this name is whole and about to take its place for the n-th time, or has just taken it."""
    _around(Path, "replace", lambda args: args[1].name == name, nth, after)


def while_beginning(nth: int) -> None:
    """The n-th thing that goes to the disk for good has got there."""
    _around(written_files, "_to_disk", lambda args: True, nth, True)


def _around(owner: Any, name: str, counts: Callable[[Sequence[Any]], bool], nth: int, after: bool) -> None:
    call, calls = getattr(owner, name), 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += counts(args)
        if calls == nth and counts(args) and not after:
            _die()
        result = call(*args)
        if calls == nth and counts(args):
            _die()
        return result

    setattr(owner, name, counted)
