"""The table of connected-component backends; all return the same tensor, bit for bit.

A backend is a function ``label(labels, classes, ignore_index, connectivity)``: ``labels`` is (B, H, W) of any integer
dtype with at least one pixel, ``classes`` the ids to number or None for all, ``ignore_index`` an id to ignore or
None. It returns (B, H, W) int32: 0 outside, and 1, 2, ... per image in raster order of each region's first pixel.
"""

from stuffinstance._backends import Backend


def _backend(module: str, devices: tuple[str, ...], package: str | None = None) -> Backend:
    return Backend(f"{__name__}.{module}", "label", devices, package)


# The order is the preference of "auto". The Triton kernels equal the others in Triton's interpreter and compile for
# Hopper, but have not run on a GPU yet: until they have, "auto" leaves them to those who name them.
BACKENDS: dict[str, Backend] = {
    "cc3d": _backend("cc3d_cpu", ("cpu",), "cc3d"),
    "skimage": _backend("skimage_cpu", ("cpu",), "skimage"),
    "torch": _backend("torch_propagation", ("cpu", "cuda", "mps", "xpu")),
    "triton": _backend("triton_unionfind", ("cuda",), "triton"),
    "reference": _backend("reference", ("cpu",)),
}
