"""Build every Triton kernel for a GPU that need not be here; print what the machine code holds, as JSON.

    python -m tests.triton_kernel_builds           # connected components
    python -m tests.triton_kernel_builds pooling   # sums of regions, by the features' dtype

A process of its own, because Triton's interpreter, which the tests use on a CPU, replaces the language as a whole.
"""

from __future__ import annotations

import json
import sys
import warnings

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stuffinstance.pooling.backends import triton_sums
from stuffinstance.regions.backends import triton_unionfind

WARPS = {"_runs": 4, "_unions": 1, "_flatten": 1, "_scan": 4, "_rank": 4, "_relabel": 4}
POINTERS = {"labels": "*i64", "table": "*i64", "keys": "*u8", "parent": "*i32", "counts": "*i32", "offsets": "*i32"}


def build(name: str, warps: int, whole: bool = True) -> dict[str, object]:
    """Compile one kernel for compute capability 9.0, with all that it can do or without."""
    flags = dict.fromkeys(("SELECTS", "IGNORES", "KEYED", "EIGHT"), whole)
    constants = flags | {"BLOCK": 32 if warps == 1 or name == "_runs" else 512, "SEGMENTS": 16, "STEPS": 16}
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


def build_pooling(dtype: str) -> dict[str, object]:
    """Compile the sums of regions for features of one dtype, for compute capability 9.0."""
    precision = "tf32x3" if dtype == "fp32" else "tf32"
    constants = {"PRECISION": precision, "CHANNELS": 64, "PIXELS": 64, "TILES": 16, "COLUMNS": 128}
    pointers = {"flat": f"*{dtype}", "number": "*i64", "out": "*fp32"}
    kernel = triton_sums._span_sums
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in kernel.arg_names}
    fixed = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    ptx = built.asm["ptx"]
    products = ptx.count("wgmma.mma_async") + ptx.count("mma.sync")
    return {
        "entry": ".entry" in ptx,
        "products": products,
        "atomics": ptx.count("atom."),
        "shared": built.metadata.shared,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Triton announces changes of its own defaults
    if sys.argv[1:] == ["pooling"]:
        print(json.dumps({dtype: build_pooling(dtype) for dtype in ("fp32", "bf16", "fp16")}))
        sys.exit()
    built = {name: build(name, warps) for name, warps in WARPS.items()}
    print(json.dumps(built | {f"{name}, bare": build(name, WARPS[name], whole=False) for name in ("_runs", "_unions")}))
