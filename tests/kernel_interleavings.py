"""Simulator of the labeling kernels: all programs of a launch run together, their accesses to memory in any order.

Triton's interpreter runs one program after another, so no race can show there. Here the kernels' own source runs over a
small model of ``triton``: each program is a generator that stops before it accesses memory, and a schedule decides
which lane of which program goes next. The memory is as weak as relaxed atomics allow:

- A volatile load gives any value that the cell has held in this launch, but none older than one that the lane has seen.
- An atomic reads the newest value and writes, in one step. A store is one step.
- A lane is a thread of its own, whose accesses keep their order. A launch sees all that the ones before it wrote.
- A plain load of a cell that another program writes in the same launch is an error; so is a place outside a tensor.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Generator, Iterable
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from torch import Tensor

SOURCE = "stuffinstance.regions.backends.triton_unionfind"
_MOST_STEPS = 10_000  # of a launch; the small maps here take hundreds


class Race(AssertionError):
    """A plain load and another program's write of the same cell in one launch."""


class Lanes(np.ndarray):
    """A block of values, as Triton's tensors are; a scalar is a block of one."""

    to = np.ndarray.astype


def lanes(values: np.ndarray) -> Lanes:
    return values.view(Lanes)


class Memory:
    """A tensor during one launch: its cells, and what each has held."""

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.is_contiguous()
        self.cells = tensor.view(-1).numpy()
        self.held: dict[int, list[int]] = {}  # of cells that were written: the first value and all that followed
        self.seen: dict[tuple[int, int, int], int] = {}  # by program, lane and cell: the place of the newest value seen
        self.writers: dict[int, set[int]] = {}  # programs by cell
        self.loaded: list[tuple[int, np.ndarray]] = []  # programs and the cells that they loaded plainly

    def newest(self, thread: tuple[int, int, int]) -> int:
        held = self.held.get(thread[2])
        if held is not None:
            self.seen[thread] = len(held) - 1
        return int(self.cells[thread[2]])

    def write(self, thread: tuple[int, int, int], value: int) -> None:
        program, _, cell = thread
        self.writers.setdefault(cell, set()).add(program)
        held = self.held.setdefault(cell, [int(self.cells[cell])])
        held.append(value)
        self.seen[thread] = len(held) - 1
        self.cells[cell] = value

    def check_plain_loads(self) -> None:
        for program, cells in self.loaded if self.writers else ():
            for cell in cells.tolist():
                if self.writers.get(cell, {program}) != {program}:
                    raise Race(f"program {program} loads cell {cell} plainly, which another one writes")


class Pointer:
    """Places in a tensor."""

    def __init__(self, memory: Memory, places: Any = 0) -> None:
        self.memory, self.places = memory, places

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.memory, self.places + more)

    def __sub__(self, less: Any) -> Pointer:
        return Pointer(self.memory, self.places - less)


class Access:
    """One load, store or atomic of a program: a step for each lane that takes part."""

    def __init__(self, program: int, kind: str, pointer: Pointer, values: Any, mask: Any) -> None:
        self.kind, self.memory = kind, pointer.memory
        shape = np.broadcast(pointer.places, mask).shape
        self.result = np.empty(shape, self.memory.cells.dtype).view(Lanes)
        self.result[...] = values  # where masked a load gives `other`
        places, taking_part = np.empty(shape, np.int64), np.empty(shape, np.bool_)
        places[...], taking_part[...] = pointer.places, mask  # quicker than broadcasting
        used = places[taking_part]
        assert not used.size or used.min() >= 0, "before the tensor"
        self.lanes = taking_part.ravel().nonzero()[0].tolist()
        if kind == "load":
            self.result[taking_part] = self.memory.cells[used]  # an error beyond the tensor
            self.memory.loaded.append((program, used))
        else:
            self.cells, self.values = places.ravel().tolist(), self.result.ravel().tolist()

    def step(self, program: int, lane: int, schedule: Schedule) -> None:
        """What one lane does."""
        memory, cell, value = self.memory, self.cells[lane], self.values[lane]
        thread = (program, lane, cell)
        if self.kind == "store":
            memory.write(thread, value)
            return
        if self.kind == "volatile load":
            held = memory.held.get(cell)
            if held is None:
                found = int(memory.cells[cell])
            else:
                oldest = memory.seen.get(thread, 0)
                place = oldest + schedule.value_of(len(held) - oldest)
                memory.seen[thread], found = place, held[place]
        else:
            found = memory.newest(thread)
            if value < found:  # atomic_min
                memory.write(thread, value)
        self.result.flat[lane] = found


class Program:
    """One program of a launch."""

    def __init__(self, number: int, body: Generator[Access, Lanes, None], machine: Machine) -> None:
        self.number, self.body, self.machine = number, body, machine
        self.access: Access | None = None

    def advance(self) -> bool:
        """Run up to the next access that other programs could notice; False when the program has ended."""
        while True:
            self.machine.program = self.number
            try:
                self.access = self.body.send(None if self.access is None else self.access.result)
            except StopIteration:
                return False
            if self.access.kind != "load" and self.access.lanes:
                self.machine.schedule.random.shuffle(self.access.lanes)
                return True

    def step(self) -> bool:
        """Let one lane access its cell; False when the program has ended."""
        assert self.access is not None
        self.access.step(self.number, self.access.lanes.pop(), self.machine.schedule)
        return bool(self.access.lanes) or self.advance()


class Schedule:
    """Any program, any value that the memory allows."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def program_of(self, waiting: list[Program]) -> int:
        """The place of the program that goes next."""
        return int(self.random.random() * len(waiting))

    def value_of(self, count: int) -> int:
        """Which of so many values a volatile load gives; the last one is the newest."""
        return int(self.random.random() * count)


class OneFarAhead(Schedule):
    """One program runs on while all others wait, until another one takes its turn: long delays between two accesses."""

    ahead = -1

    def program_of(self, waiting: list[Program]) -> int:
        for place, program in enumerate(waiting):
            if program.number == self.ahead and self.random.random() > 0.05:
                return place
        place = super().program_of(waiting)
        self.ahead = waiting[place].number
        return place


class WritesLast(Schedule):
    """Writes wait until nothing else is left to do: every one of them is decided on what was before all the others."""

    def program_of(self, waiting: list[Program]) -> int:
        loads = [place for place, one in enumerate(waiting) if one.access and one.access.kind == "volatile load"]
        return self.random.choice(loads) if loads else super().program_of(waiting)


class OldestValues(Schedule):
    """Programs take turns, and every load gives the oldest value it may."""

    turn = 0

    def program_of(self, waiting: list[Program]) -> int:
        self.turn += 1
        return self.turn % len(waiting)

    def value_of(self, count: int) -> int:
        return 0


SCHEDULES = (Schedule, OneFarAhead, WritesLast, OldestValues)


class Kernel:
    """What ``triton.jit`` makes of a function: it is launched over a grid, or called by another kernel."""

    def __init__(self, function: Any, machine: Machine) -> None:
        self.function, self.machine = function, machine

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self.function(*values, **named)

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*values: Any, num_warps: int = 4, **named: Any) -> None:
            memories = {value.data_ptr(): Memory(value) for value in values if isinstance(value, Tensor)}
            pointed = [Pointer(memories[v.data_ptr()]) if isinstance(v, Tensor) else v for v in values]
            self.machine.run([self.function(*pointed, **named) for _ in range(grid[0])])
            for memory in memories.values():
                memory.check_plain_loads()

        return launch


class Machine:
    """Runs launches by a schedule; stands for ``triton`` and ``triton.language`` in the kernels' module."""

    def __init__(self) -> None:
        self.schedule, self.program = Schedule(0), 0
        self.language = SimpleNamespace(
            constexpr=None,
            uint8=np.uint8,
            int32=np.int32,
            int64=np.int64,
            program_id=lambda axis: lanes(np.full(1, self.program)),
            arange=lambda start, stop: lanes(np.arange(start, stop, dtype=np.int32)),
            full=lambda shape, value, dtype: lanes(np.full(shape or 1, value, dtype)),
            zeros=lambda shape, dtype: lanes(np.zeros(shape or 1, dtype)),
            where=lambda mask, one, other: lanes(np.where(mask, one, other)),
            minimum=np.minimum,
            maximum=np.maximum,
            max=lambda block, axis: block.max(axis, keepdims=True),
            sum=lambda block, axis: block.sum(axis, keepdims=True),
            cumsum=lambda block, axis: block.cumsum(axis),
            associative_scan=lambda block, axis, combine: np.maximum.accumulate(block, axis),
            load=lambda pointer, mask=True, other=0, volatile=False: self.access(
                "volatile load" if volatile else "load", pointer, other, mask
            ),
            store=lambda pointer, values, mask=True: self.access("store", pointer, values, mask),
            atomic_min=lambda pointer, values, mask=True, sem=None: self.access("atomic", pointer, values, mask),
        )

    def access(self, *what: Any) -> Access:
        return Access(self.program, *what)

    def jit(self, function: Any) -> Kernel:
        return Kernel(function, self)

    @staticmethod
    def cdiv(size: int, block: int) -> int:
        return -(-size // block)

    def run(self, bodies: Iterable[Generator[Access, Lanes, None]]) -> None:
        """All programs of a launch, until the last one has ended."""
        waiting = [program for n, body in enumerate(bodies) if (program := Program(n, body, self)).advance()]
        for _ in range(_MOST_STEPS):
            if not waiting:
                return
            place = self.schedule.program_of(waiting)
            if not waiting[place].step():
                del waiting[place]
        raise AssertionError(f"a launch has not ended after {_MOST_STEPS} steps")


class _Stopping(ast.NodeTransformer):
    """Turns kernels into generators that hand out every access and get its result."""

    def __init__(self, kernels: set[str]) -> None:
        self.kernels = kernels

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name in self.kernels:
            return ast.YieldFrom(node)
        return ast.Yield(node) if name in ("tl.load", "tl.store", "tl.atomic_min") else node


class Simulator:
    """The labeling of a map under a schedule of one's choice.

    Args:
        changes: Texts of the source and what is put in their place, to see that faults are found.
    """

    def __init__(self, changes: Iterable[tuple[str, str]] = ()) -> None:
        self.machine = Machine()
        spec = find_spec(SOURCE)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        for old, new in changes:
            assert old in source, old
            source = source.replace(old, new)
        tree = ast.parse(source)
        kernels = [part for part in tree.body if isinstance(part, ast.FunctionDef) and part.decorator_list]
        stopping = _Stopping({kernel.name for kernel in kernels})
        for kernel in kernels:
            kernel.body = [stopping.visit(part) for part in kernel.body]
        self.module: Any = ModuleType("kernels_by_steps")
        code = compile(ast.fix_missing_locations(tree), spec.origin, "exec")
        with mock.patch.dict(sys.modules, {"triton": self.machine, "triton.language": self.machine.language}):
            exec(code, self.module.__dict__)

    def label(
        self, labels: Tensor, classes: tuple[int, ...] | None, connectivity: int, schedule: Schedule, warp: int
    ) -> Tensor:
        """Region numbers of (B, H, W) labels without the id 255, by programs of ``warp`` lanes."""
        self.machine.schedule = schedule
        self.module._WARP, self.module._WARPS_OF_PIXELS, self.module._SEGMENTS = warp, 2, 2
        self.module._SCAN_BLOCK = self.module._PIXEL_BLOCK = 2 * warp
        return self.module.label(labels, classes, 255, connectivity)
