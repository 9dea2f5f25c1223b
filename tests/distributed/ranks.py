"""Start processes that talk through gloo, run one function in each, and bring back what they return.

An error or a hang in any of them is an error here.
"""

from __future__ import annotations

import datetime
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

from tests.distributed.process_groups import ending_the_group

SECONDS = 60
# Where processes can be forked, from one that has imported what takes long.
START = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
PRELOADED = [__name__, "pytest", "skimage.measure", "torch._dynamo", "examples.gta5_to_cityscapes.training.loop"]


def _enter(rank: int, function: Callable[..., Any], folder: str, world: int, arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("error")
    store = dist.FileStore(str(Path(folder) / "store"), world)  # no port to be taken by someone else
    limit = datetime.timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    with ending_the_group():
        result = function(rank, *arguments)
        (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(result))
        dist.barrier()


def on_ranks(world: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """The same on any number of ranks."""
    mp.set_forkserver_preload(PRELOADED)
    context = mp.start_processes(
        _enter, args=(function, str(folder), world, arguments), nprocs=world, join=False, start_method=START
    )
    deadline = time.monotonic() + 2 * SECONDS
    while not context.join(timeout=5):  # raises what a rank raised; True once both are done
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            raise TimeoutError("the ranks did not finish in time")
    return [pickle.loads((Path(folder) / f"{rank}.pickle").read_bytes()) for rank in range(world)]
