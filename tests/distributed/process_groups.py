"""Process groups that leave no thread behind."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

if dist.is_available():
    # Imported only after a group exists (DistributedDataParallel does it), this module keeps the group and its threads.
    # A thread that releases a tensor while the interpreter shuts down ends the process with SIGABRT.
    importlib.import_module("torch.distributed.nn")


@contextmanager
def ending_the_group() -> Iterator[None]:
    """Destroy the default group after the block, once nothing holds it: its last holder would wait for its threads."""
    try:
        yield
    finally:
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def group_of_one(folder: Path) -> Iterator[None]:
    """A gloo group of this process alone, for the block."""
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 1), rank=0, world_size=1)
    with ending_the_group():
        yield
