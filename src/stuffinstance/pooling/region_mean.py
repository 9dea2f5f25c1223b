"""Mean feature of each region, and its gradient."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stuffinstance._backends import check_backend, resolve
from stuffinstance._checks import check_label_map, check_maps, check_same_batch, checked_whole, describe, may_read
from stuffinstance._numerics import float_dtype
from stuffinstance.pooling.backends import BACKENDS
from stuffinstance.pooling.backends.torch_sums import lies_in_rows
from stuffinstance.regions import Regions, count_rows, most_regions

_INT32_PIXELS = 2**31


def region_mean(
    features: Tensor, regions: Regions | Tensor, num_regions: int | None = None, *, backend: str = "auto"
) -> Tensor:
    """Region-wise average pooling (SIM, Eq. 5 and 7): the mean feature of each region.

    .. math:: \\mathcal{I}(r, f) = \\frac{\\sum_{h,w} r^{(h,w)} f^{(h,w)}}{\\max(1, \\sum_{h,w} r^{(h,w)})}

    An area is 0 or at least 1, so the paper's :math:`\\epsilon` (1e-12 in the code) only ever turns an empty region's
    0/0 into 0, and 1 does the same. Sums are float32 for half-precision features, with or without autocast, and
    float64 for float64, and come out the same in every run. A value that is not finite spoils its own region alone.

    A CPU reads the features once; ``"numba"`` at the speed of memory, ``"torch"`` 4 MiB at a time, and holds a few such
    blocks beside the result (with channels last also partial sums, never more numbers than the features). On an
    accelerator ``"torch"`` reads them twice and multiplies a copy without non-finite values with the regions' masks,
    following torch's float32 matmul precision; ``"triton"`` reads them once for up to 128 regions, without a copy of
    NCHW or channels_last features. The gradient is written once, in the features' dtype, and channels last where they
    were.

    Args:
        features: (B, D, h, w), floating; any memory format, contiguous or not.
        regions: :class:`Regions`, or a map (B, h, w) of any integer dtype with 0 for no region and 1 .. R for its rows,
            or a bool mask (B, h, w), whose True is the one region.
        num_regions: R where ``regions`` is a map: at most h * w, or 65536 where that is more. Default: its largest
            number, which is read back from the device; 1 for a mask.
        backend: ``"auto"`` (the first that can run), ``"numba"`` (CPU, with the extra ``fast``), ``"torch"`` (any
            device) or ``"triton"`` (CUDA; only by name).

    Returns:
        (B, R, D) float32 (float64 for float64 features); zeros for a region without a pixel. Row *r* is region *r* + 1.

    Raises:
        TypeError: If ``features`` or ``regions`` are not such tensors, or ``num_regions`` is not a whole number.
        ValueError: If ranks, dtypes, sizes, batch sizes or devices do not fit, or a region number exceeds R
            (checked where reading is free: on a CPU, outside ``torch.compile``), or R is far above what an image can
            hold, or an image has 2\\ :sup:`31` pixels, or no backend has that name.
        BackendUnavailableError: If ``backend`` cannot run here.

    Example:
        >>> features = torch.tensor([[[[1.0, 3.0, 5.0]]]])                    # B = D = h = 1, w = 3
        >>> region_mean(features, torch.tensor([[[1, 1, 2]]]))
        tensor([[[2.],
                 [5.]]])
    """
    check_maps("features", features)
    region_map = regions.region_map if isinstance(regions, Regions) else regions
    check_label_map("regions", region_map, masks=True)
    check_same_batch("regions", region_map, "features", features)
    check_backend(BACKENDS, backend, "features", features.device)
    if region_map.shape[1:] != features.shape[2:]:
        raise ValueError(
            f"regions must have the features' size (h, w) = {tuple(features.shape[2:])}, got "
            f"{tuple(region_map.shape[1:])}. Resize the labels with resize_labels before making regions of them."
        )
    if region_map.shape[1] * region_map.shape[2] >= _INT32_PIXELS:
        raise ValueError(
            f"features must have fewer than 2^31 pixels an image, got {describe(features)}. Cut the images."
        )
    number = region_map.flatten(1).to(torch.int64)  # (B, P)
    num_regions = _checked_rows(regions, number, num_regions, most_regions(region_map))
    return _region_mean(features, number, num_regions, backend)


def _region_mean(features: Tensor, region_map: Tensor, num_regions: int, backend: str = "auto") -> Tensor:
    number = region_map.flatten(1).to(torch.int64)  # (B, P)
    sums = _differentiable_sums(features, number, num_regions, backend)  # (B, D, R)
    area = sums.new_zeros(number.shape[0], num_regions + 1).scatter_add(
        1, number, torch.ones_like(number, dtype=sums.dtype)
    )
    means: Tensor = sums / area[:, None, 1:].clamp(min=1)
    return means.transpose(1, 2)


def _checked_rows(regions: Regions | Tensor, number: Tensor, num_regions: int | None, most: int) -> int:
    """R, at most ``most``, of regions whose numbers (B, P) do not exceed it."""
    if num_regions is not None:
        num_regions = checked_whole("num_regions", num_regions, 0, most)
    if isinstance(regions, Regions):
        rows = count_rows(regions)
        if num_regions not in (None, rows):
            raise ValueError(f"num_regions must be None or R = {rows}, the rows of these regions, got {num_regions!r}.")
        return checked_whole("regions.num_rows", rows, 0, most)
    if num_regions is None and regions.dtype == torch.bool:
        num_regions = 1
    if not (may_read(number) or num_regions is None) or not number.numel():
        return num_regions or 0
    if number.device.type == "meta":
        raise ValueError("num_regions must be given for regions on meta, which hold no number to read, got None.")
    lowest, highest = torch.stack(torch.aminmax(number)).tolist()
    rows = highest if num_regions is None else num_regions
    if lowest < 0 or highest > rows:
        raise ValueError(
            f"regions must hold 0 (none) and 1..R = {rows}, got numbers from {lowest} to {highest}. "
            "Pass num_regions, or clear the ignored pixels to 0."
        )
    if rows > most:
        raise ValueError(
            f"regions must hold numbers up to max(h * w, 65536) = {most}, got numbers up to {highest}, each of which "
            "would be a row of the result. Number the regions from 1 on: torch.unique(regions, return_inverse=True)."
        )
    return rows


@torch.library.custom_op(
    "stuffinstance::region_sums",
    mutates_args=(),
    schema="(Tensor features, Tensor number, int num_regions, str backend) -> Tensor",
)
def _region_sums(features: Tensor, number: Tensor, num_regions: int, backend: str) -> Tensor:
    """Features (B, D, h, w) and region numbers (B, P) to sums (B, D, R)."""
    return resolve(BACKENDS, backend, "features", features.device).run(features, number, num_regions)


@_region_sums.register_fake
def _(features: Tensor, number: Tensor, num_regions: int, backend: str) -> Tensor:
    return features.new_empty((features.shape[0], features.shape[1], num_regions), dtype=float_dtype(features))


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, int, str], output: Tensor) -> None:
    features, number, _, ctx.backend = inputs
    ctx.save_for_backward(number)
    ctx.size = features.shape[2:]
    ctx.dtype = features.dtype
    ctx.rows = lies_in_rows(features)


def _spread(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    """Each pixel gets its region's gradient: one write, in the features' own dtype and order.

    On a CPU the forms in torch take as long as a fresh copy of that size; others are 1.5 to 3 times slower. The
    compiled one has no derivative of its own: where one is wanted torch's is taken.
    """
    (number,) = ctx.saved_tensors
    batch, channels = gradient.shape[:2]
    height, width = ctx.size
    if not ctx.rows and may_read(gradient) and not torch.is_grad_enabled():
        taken = resolve(BACKENDS, ctx.backend, "features", gradient.device)
        if taken is BACKENDS["numba"]:
            written: Tensor = taken.loaded.spread(gradient.to(ctx.dtype), number)
            return written.view(batch, channels, height, width), None, None, None
    with_none = F.pad(gradient.to(ctx.dtype), (1, 0))  # (B, D, 1 + R): pixels of no region get zero
    if ctx.rows:
        table = with_none.transpose(1, 2)
        first_row = torch.arange(batch, device=number.device)[:, None] * table.shape[1]
        rows = table.flatten(0, 1).index_select(0, (first_row + number).flatten())  # (B * P, D)
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2), None, None, None
    spread = with_none.gather(2, number[:, None].expand(-1, channels, -1))
    return spread.view(batch, channels, height, width), None, None, None


_region_sums.register_autograd(_spread, setup_context=_remember)


class _TransformedSums(torch.autograd.Function):
    """The operator within ``torch.func``'s transforms, which cannot use the gradient that an operator registers."""

    @staticmethod
    def forward(features: Tensor, number: Tensor, num_regions: int, backend: str) -> Tensor:
        sums: Tensor = torch.ops.stuffinstance.region_sums(features, number, num_regions, backend)
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, str], output: Tensor) -> None:
        _remember(ctx, inputs, output)
        ctx.save_for_forward(inputs[1])
        ctx.settings = inputs[2:]

    @staticmethod
    def jvp(ctx: Any, change: Tensor, *_: None) -> Tensor:
        (number,) = ctx.saved_tensors
        return _differentiable_sums(change, number, *ctx.settings)  # linear in the features

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _spread(ctx, *gradient)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], features: Tensor, number: Tensor, num_regions: int, backend: str
    ) -> tuple[Tensor, int]:
        """What is mapped over are more images."""
        several = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip((features, number), in_dims, strict=False)
        ]
        sums = _differentiable_sums(several[0].flatten(0, 1), several[1].flatten(0, 1), num_regions, backend)
        return sums.reshape(*several[0].shape[:2], *sums.shape[1:]), 0


def _differentiable_sums(features: Tensor, number: Tensor, num_regions: int, backend: str) -> Tensor:
    transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    form: Callable[..., Tensor] = _TransformedSums.apply if transformed else torch.ops.stuffinstance.region_sums
    return form(features, number, num_regions, backend)
