"""What the library costs, beside the released code's way, other libraries and what no way can be faster than."""
