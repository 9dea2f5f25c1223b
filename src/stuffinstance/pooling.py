"""Features and regions to descriptors: the mean feature of every region, in one pass over the feature map."""

import torch
from torch import Tensor

from stuffinstance.arguments import check_label_map, check_maps, check_same_batch, may_read
from stuffinstance.regions import Regions


def region_mean(features: Tensor, regions: Regions | Tensor, num_regions: int | None = None) -> Tensor:
    """Average the features of each region (SIM, Eq. 5 and 7).

    .. math:: \\mathcal{I}(r, f) = \\frac{\\sum_{h,w} r^{(h,w)} f^{(h,w)}}{\\max(1, \\sum_{h,w} r^{(h,w)})}

    An area is 0 or at least 1, so the paper's :math:`\\epsilon` (1e-12 in the code) only ever turns an empty region's
    0/0 into 0, and 1 does the same. Sums are float32 for half-precision features, with or without autocast, and
    float64 for float64.

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
    return _segment_mean(features, number, num_regions)


def _segment_mean(features: Tensor, number: Tensor, num_regions: int) -> Tensor:
    """Sum the pixels of each number, divide by how many they are, drop number 0."""
    batch, channels = features.shape[:2]
    exact = features.dtype if features.dtype == torch.float64 else torch.float32
    flat = features.flatten(2).to(exact)  # (B, D, P)
    index = number[:, None, :].expand(-1, channels, -1)
    sums = flat.new_zeros(batch, channels, num_regions + 1).scatter_add(2, index, flat)
    area = flat.new_zeros(batch, num_regions + 1).scatter_add(1, number, torch.ones_like(number, dtype=exact))
    return (sums / area.clamp(min=1)[:, None])[:, :, 1:].transpose(1, 2)
