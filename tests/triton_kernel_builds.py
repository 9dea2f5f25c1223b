"""Build every Triton kernel for a GPU that need not be here; print what the machine code holds, as JSON.

    python -m tests.triton_kernel_builds

A process of its own, because Triton's interpreter, which the tests use on a CPU, replaces the language as a whole.
"""

from __future__ import annotations

import json
import warnings

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stuffinstance.regions.backends import triton_unionfind

WARPS = {"_runs": 4, "_unions": 1, "_flatten": 1, "_scan": 4, "_rank": 4, "_relabel": 4}
POINTERS = {"labels": "*u8", "table": "*i64"} | dict.fromkeys(("parent", "counts", "offsets", "number", "out"), "*i32")


def build(name: str, warps: int) -> dict[str, object]:
    """Compile one kernel for compute capability 9.0."""
    constants = {"SELECTS": True, "IGNORES": True, "EIGHT": True, "BLOCK": 32 if warps == 1 else 256, "STEPS": 16}
    kernel = getattr(triton_unionfind, name)
    signature, fixed = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument], fixed[(place,)] = "constexpr", constants[argument]
        else:
            signature[argument] = POINTERS.get(argument, "i32")
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    ptx = built.asm["ptx"]
    return {"entry": ".entry" in ptx, "barriers": ptx.count("bar.sync"), "relaxed": ptx.count(".relaxed.min")}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Triton announces changes of its own defaults
    print(json.dumps({name: build(name, warps) for name, warps in WARPS.items()}))
