"""What the library costs, beside the reference implementation's way, other libraries and what no way can be faster than."""
