"""The table of backends that add the features of regions up.

A backend is a function ``region_sums(features, number, num_regions)``: ``features`` (B, D, h, w) floating, ``number``
(B, P) int64 with 0 for no region and 1 .. R. It returns the sums (B, D, R), float32 or, for float64 features, float64.
What is not finite makes the sums that it belongs to not finite, and no others in another region.
"""

from stuffinstance._backends import Backend, preferred_first

# "auto" is the first that can run, after PREFERRED_ON_GPU. The Triton kernel equals the others in Triton's interpreter
# and compiles for Hopper, but has not run on a GPU yet: until it has, "auto" leaves it to those who name it.
_TABLE = {
    "numba": Backend(f"{__name__}.numba_sums", "region_sums", ("cpu",), "numba"),
    "torch": Backend(f"{__name__}.torch_sums", "region_sums"),
    "triton": Backend(f"{__name__}.triton_sums", "region_sums", ("cuda",), "triton"),
}
BACKENDS: dict[str, Backend] = preferred_first("region_mean", _TABLE)
