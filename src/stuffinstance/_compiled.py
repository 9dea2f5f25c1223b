"""Functions that numba compiles, and the threads that share their work."""

# mypy cannot see through numba's decorator.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return,misc"

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch

unsigned = np.uintp
"""For indices that are never negative, in the inner loops of compiled functions.

A signed index counts from the end where it is negative, and the test for that keeps the compiler from vector
instructions. Convert last: the sum of an unsigned and a signed number is a float.
"""


def compiled(function: Callable[..., Any] | None = None, *, reorder: bool = False) -> Callable[..., Any]:
    """Compile a function on its first call for the types that it gets, without the interpreter's lock.

    The machine code is kept on disk: beside the source, where that cannot be written in the user's cache folder
    (``NUMBA_CACHE_DIR`` names another), and where that cannot either only for as long as the process lives.

    Args:
        function: What to compile.
        reorder: Whether sums may be taken in any order, as vector instructions do; NaN and infinity stay what they are.
    """
    if function is None:
        return partial(compiled, reorder=reorder)
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "nsz"} if reorder else False,
    }
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the code
        return numba.njit(**options)(function)


@lru_cache(maxsize=8)
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "stuffinstance")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # a forked process has no threads but one


def threads_for(work: int, least: int) -> int:
    """torch's threads for at least that much work; one for less, which is done before another thread has begun."""
    return torch.get_num_threads() if work >= least else 1


def over_threads(kernel: Callable[..., None], count: int, threads: int, *arguments: Any) -> None:
    """``kernel(first, last, *arguments)`` on parts of ``range(count)`` that cover it, one part a thread.

    Args:
        kernel: A compiled function, whose parts write to different memory.
        count: How many pieces of work there are.
        threads: How many parts to make at most; ``torch.get_num_threads()`` bounds it too.
        arguments: What all parts get.
    """
    threads = min(threads, count, torch.get_num_threads())
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    bounds = [count * part // threads for part in range(threads + 1)]
    others = [_workers(threads - 1).submit(kernel, first, last, *arguments) for first, last in pairwise(bounds[1:])]
    kernel(0, bounds[1], *arguments)
    for other in others:
        other.result()
