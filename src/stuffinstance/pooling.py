"""Features and regions to descriptors: the mean feature of every region, in one pass over the feature map."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance.arguments import check_label_map, check_maps, check_same_batch, may_read
from stuffinstance.regions import Regions

_TERMS = 256  # most terms of one running sum


def region_mean(features: Tensor, regions: Regions | Tensor, num_regions: int | None = None) -> Tensor:
    """Average the features of each region (SIM, Eq. 5 and 7).

    .. math:: \\mathcal{I}(r, f) = \\frac{\\sum_{h,w} r^{(h,w)} f^{(h,w)}}{\\max(1, \\sum_{h,w} r^{(h,w)})}

    An area is 0 or at least 1, so the paper's :math:`\\epsilon` (1e-12 in the code) only ever turns an empty region's
    0/0 into 0, and 1 does the same. Sums are float32 for half-precision features, with or without autocast, and
    float64 for float64. (On a GPU they are a matrix product and follow torch's float32 matmul precision.)

    Args:
        features: (B, D, h, w), floating; any memory format, contiguous or not.
        regions: :class:`Regions`, or a map (B, h, w) of any integer dtype with 0 for no region and 1 .. R for its rows.
        num_regions: R where ``regions`` is a map. Default: its largest number, which is read back from the device.

    Returns:
        (B, R, D) float32 (float64 for float64 features); zeros for a region without a pixel. Row *r* is region *r* + 1.

    Raises:
        ValueError: If ranks, dtypes, sizes, batch sizes or devices do not fit, or a region number exceeds R
            (checked where reading is free: on a CPU, outside ``torch.compile``).

    Example:
        >>> features = torch.tensor([[[[1.0, 3.0, 5.0]]]])                    # B = D = h = 1, w = 3
        >>> region_mean(features, torch.tensor([[[1, 1, 2]]]))
        tensor([[[2.],
                 [5.]]])
    """
    check_maps("features", features)
    region_map = regions.map if isinstance(regions, Regions) else regions
    check_label_map("regions", region_map)
    check_same_batch("regions", region_map, "features", features)
    if region_map.shape[1:] != features.shape[2:]:
        raise ValueError(
            f"regions must have the features' size (h, w) = {tuple(features.shape[2:])}, got "
            f"{tuple(region_map.shape[1:])}. Resize the labels with resize_labels before making regions of them."
        )
    if isinstance(regions, Regions):
        num_regions = regions.num_rows
    elif num_regions is None:
        num_regions = int(region_map.max()) if region_map.numel() else 0
    number = region_map.flatten(1).to(torch.int64)  # (B, P)
    if isinstance(regions, Tensor) and may_read(number) and number.numel():
        lowest, highest = (int(bound) for bound in torch.aminmax(number))
        if lowest < 0 or highest > num_regions:
            raise ValueError(
                f"regions must hold 0 (none) and 1..R = {num_regions}, got numbers from {lowest} to {highest}. "
                "Pass num_regions, or clear the ignored pixels to 0."
            )
    sums = torch.ops.stuffinstance.region_sums(features, number, num_regions)  # (B, D, R)
    area = sums.new_zeros(number.shape[0], num_regions + 1).scatter_add(
        1, number, torch.ones_like(number, dtype=sums.dtype)
    )
    means: Tensor = sums / area[:, None, 1:].clamp(min=1)
    return means.transpose(1, 2)


@torch.library.custom_op(
    "stuffinstance::region_sums",
    mutates_args=(),
    schema="(Tensor features, Tensor number, int num_regions) -> Tensor",
)
def _region_sums(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Features (B, D, h, w) and region numbers (B, P) to sums (B, D, R): one read of the features."""
    exact = torch.float64 if features.dtype == torch.float64 else torch.float32
    flat = features.flatten(2).to(exact)
    if flat.device.type == "cpu":
        return _scattered_sums(flat, number, num_regions)
    return _multiplied_sums(flat, number, num_regions)


def _multiplied_sums(flat: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Add pixels up as a matrix product: the same in every run, which adding by atomics on a GPU would not be.

    A product meets every pixel with every region, and 0 * NaN is NaN: what is not finite is taken out of it, and only
    the regions that it lies in become NaN.
    """
    member = (number[:, :, None] == torch.arange(1, num_regions + 1, device=number.device)).to(flat.dtype)
    with torch.autocast(flat.device.type, enabled=False):  # an operator's body still runs under it
        broken = ~flat.isfinite().all(1, keepdim=True)  # (B, 1, P)
        sums = torch.bmm(flat.masked_fill(broken, 0), member)
        return sums.masked_fill(torch.bmm(broken.to(flat.dtype), member) > 0, torch.nan)


def _scattered_sums(flat: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Add every pixel into one of L partial sums of its region, then add those up.

    A single running sum in float32 loses three digits over a large region of nearly constant features. With L partial
    sums none has more than 256 terms (or as many as there are regions, so that the partial sums never take more memory
    than the features), and neighbouring pixels do not wait for each other's addition.
    """
    batch, channels, pixels = flat.shape
    present = torch.zeros(num_regions + 1, dtype=torch.int64)
    present[number.flatten()] = 1
    used = present.nonzero()[:, 0]
    lanes = max(1, min(-(-pixels // _TERMS), pixels // max(1, used.numel())))
    index = (present.cumsum(0) - 1)[number] * lanes + torch.arange(pixels) % lanes
    partial_sums = flat.new_zeros(batch, channels, used.numel() * lanes)
    partial_sums.scatter_add_(2, index[:, None].expand(-1, channels, -1), flat)
    sums = flat.new_zeros(batch, channels, num_regions + 1)
    sums[:, :, used] = partial_sums.view(batch, channels, used.numel(), lanes).sum(3)
    return sums[:, :, 1:].contiguous()


@_region_sums.register_fake
def _(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    exact = torch.float64 if features.dtype == torch.float64 else torch.float32
    return features.new_empty((features.shape[0], features.shape[1], num_regions), dtype=exact)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    features, number, _ = inputs
    ctx.save_for_backward(number)
    ctx.size = features.shape[2:]
    ctx.dtype = features.dtype


def _spread(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    """Each pixel gets its region's gradient: one write, in the features' own dtype."""
    (number,) = ctx.saved_tensors
    with_none = F.pad(gradient.to(ctx.dtype), (1, 0))  # (B, D, 1 + R): pixels of no region get zero
    spread = with_none.gather(2, number[:, None].expand(-1, gradient.shape[1], -1))
    return spread.view(*spread.shape[:2], *ctx.size), None, None


_region_sums.register_autograd(_spread, setup_context=_remember)
