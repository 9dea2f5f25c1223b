"""The table of connected-component backends; all return the same tensor, bit for bit.

A backend is a function of ``(labels, classes, ignore_index, connectivity)``: ``labels`` is (B, H, W) of any integer
dtype with at least one pixel, ``classes`` the ids to number or None for all, ``ignore_index`` an id to ignore or
None. It returns (B, H, W) int32: 0 outside, and 1, 2, ... per image in raster order of each region's first pixel.
"""

from stuffinstance._backends import Backend, preferred_first

# The order is the preference of "auto", after PREFERRED_ON_GPU. The Triton kernels equal the others in Triton's
# interpreter and compile for Hopper, but have not run on a GPU yet: until they have, "auto" leaves them to those who
# name them.
_TABLE = {
    "numba": Backend(f"{__name__}.numba_runs", "label", ("cpu",), "numba"),
    "skimage": Backend(f"{__name__}.cpu", "label_by_skimage", ("cpu",), "skimage"),
    "torch": Backend(f"{__name__}.torch_propagation", "label", ("cpu", "cuda", "mps", "xpu")),
    "triton": Backend(f"{__name__}.triton_unionfind", "label", ("cuda",), "triton"),
    "reference": Backend(f"{__name__}.cpu", "label_by_flood_fill", ("cpu",)),
}
BACKENDS: dict[str, Backend] = preferred_first("connected_components", _TABLE)
