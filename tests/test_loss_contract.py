"""What every loss of single images or their pixels does: gradients, batches, masks, precision, compiler, layouts.

Values by hand, oracles and recorded numbers are in the tests of each loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from tests.test_compile import check_same

B, K, D, H, W = 3, 4, 5, 6, 8


Call = Callable[..., Tensor]


class Case(NamedTuple):
    """A loss of one differentiable tensor (B, C, H, W) and of tensors that hold an entry for each image.

    Attributes:
        make: Makes the loss, a function of that tensor and the others.
        channels: C.
        others: The other tensors of B images, of a dtype, and whether all pixels are masked.
        masked: Whether it takes a mask, which is the last of the others.
        by_image: Whether it is the mean over the images.
        exact: Whether half precision is as exact as its values in single precision.
    """

    make: Callable[..., Call]
    channels: int = K
    others: Callable[[int, torch.dtype, bool], tuple[Tensor, ...]] = lambda batch, dtype, nothing: ()
    masked: bool = False
    by_image: bool = True
    exact: bool = True


def mask(batch: int, dtype: torch.dtype, nothing: bool) -> tuple[Tensor]:
    return (torch.zeros(batch, H, W, dtype=torch.bool) if nothing else torch.rand(batch, H, W) < 0.6,)


def soft_and_mask(batch: int, dtype: torch.dtype, nothing: bool) -> tuple[Tensor, ...]:
    return (torch.randn(batch, K, H, W, dtype=dtype).softmax(1), *mask(batch, dtype, nothing))


def weights_and_labels(batch: int, dtype: torch.dtype, nothing: bool) -> tuple[Tensor, ...]:
    labels = torch.where(mask(batch, dtype, nothing)[0], torch.randint(K, (batch, H, W)), 255)
    return torch.rand(batch, H, W, dtype=dtype), labels


def target_logits(batch: int, dtype: torch.dtype, nothing: bool) -> tuple[Tensor]:
    return (4 * torch.randn(batch, K, 2 * H, 2 * W, dtype=dtype),)


def weighted(x: Tensor, weights: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return si.weighted_cross_entropy(x, labels, weights, **options)


def output_adversarial(objective: Any, of: Any, **options: Any) -> Call:
    return si.OutputAdversarialLoss(nn.AvgPool2d(2), objective, of, **options).generator_loss


def fine_grained(encoding: Any, **options: Any) -> Call:
    return si.FineGrainedAdversarialLoss(nn.Identity(), encoding=encoding, **options).generator_loss


def labels_alone(batch: int, dtype: torch.dtype, nothing: bool) -> tuple[Tensor]:
    """Ids in blocks, so that regions are of many sizes."""
    cells = torch.randint(K, (batch, H // 2, W // 2)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return (torch.where(mask(batch, dtype, nothing)[0], cells, 255),)


def filled_banks() -> dict[str, Any]:
    """Banks of every class, and anchors, that hold rows."""
    maps, (ids,) = torch.randn(B, D, H, W), labels_alone(B, torch.float32, False)
    held = {
        "stuff": si.StuffBank((2, 0, 1, 3), D, 4),
        "instance": si.InstanceBank((2, 0, 1, 3), D, 6, max_instances=3),
        "anchors": si.CategoryAnchors(K, D, min_pixels=1),
        "distributions": si.ClassDistributions(K, D),
    }
    for each in held.values():
        each.update(maps, ids)
    return held


def matching(kind: str, distance: str, **options: Any) -> Call:
    held = filled_banks()
    make = si.StuffMatchingLoss if kind == "stuff" else si.InstanceMatchingLoss
    return make(held[kind], distance, **options)


def anchor_distance(form: Any) -> Call:
    return si.AnchorDistanceLoss(filled_banks()["anchors"], form, scale_gradient=False)


def bank_contrast(**options: Any) -> Call:
    banks = si.StuffBank((2, 1), D, 4), si.InstanceBank((0, 3), D, 6)
    for each in banks:
        each.update(torch.randn(B, D, H, W), *labels_alone(B, torch.float32, False))
    return si.BankContrastLoss(banks, 0.5, **options)


def start_and_labels(batch: int, dtype: torch.dtype, nothing: bool) -> tuple[Tensor, ...]:
    return (torch.randn(batch, D, H, W, dtype=dtype), *labels_alone(batch, dtype, nothing))


def distribution_contrast(**options: Any) -> Call:
    return si.DistributionContrastLoss(filled_banks()["distributions"], 0.2, **options)


def prototype_contrast(**options: Any) -> Call:
    return si.PrototypeContrastLoss(filled_banks()["anchors"], **options)


def region_contrast(distance: Any = "cosine", **options: Any) -> Call:
    held = filled_banks()
    return si.RegionContrastLoss(held["instance"], 0.5, distance, **options)


OF_FEATURES = {"channels": D, "others": labels_alone, "masked": True}
CASES = {
    **{
        f"{kind} matching, {distance}": Case(partial(matching, kind, distance), **OF_FEATURES)
        for kind in ("stuff", "instance")
        for distance in ("l1_mean", "l1_squared", "l2", "cosine")
    },
    "AnchorDistanceLoss, code": Case(partial(anchor_distance, "code"), **{**OF_FEATURES, "by_image": False}),
    "AnchorDistanceLoss, paper": Case(partial(anchor_distance, "paper"), **{**OF_FEATURES, "by_image": False}),
    "BankContrastLoss": Case(bank_contrast, **OF_FEATURES),
    "BankContrastLoss, dot products": Case(partial(bank_contrast, normalize=False), **OF_FEATURES),
    "FeatureDistanceLoss": Case(partial(si.FeatureDistanceLoss, range(K), K), D, start_and_labels, masked=True),
    "DistributionContrastLoss": Case(distribution_contrast, **OF_FEATURES),
    "PrototypeContrastLoss": Case(prototype_contrast, **OF_FEATURES),
    "RegionContrastLoss": Case(region_contrast, **OF_FEATURES),
    "RegionContrastLoss, all rows": Case(partial(region_contrast, positives="all", repel=0.5), **OF_FEATURES),
    "RegionContrastLoss, l1_mean": Case(partial(region_contrast, "l1_mean", positives="top_k", top_k=2), **OF_FEATURES),
    "EntropyLoss": Case(si.EntropyLoss, others=mask, masked=True),
    "MaxSquareLoss": Case(si.MaxSquareLoss, others=mask, masked=True),
    "MaxSquareLoss, plain": Case(partial(si.MaxSquareLoss, image_wise=False), others=mask, masked=True),
    "MaxSquareLoss, alike": Case(partial(si.MaxSquareLoss, alpha=1.0), others=mask, masked=True),
    "weighted_cross_entropy": Case(partial(partial, weighted), others=weights_and_labels, masked=True),
    "symmetric_cross_entropy": Case(
        lambda: si.symmetric_cross_entropy, others=labels_alone, masked=True, by_image=False
    ),
    "soft_cross_entropy": Case(lambda: si.soft_cross_entropy, others=soft_and_mask, masked=True, by_image=False),
    "mrkld_regularizer": Case(lambda: si.mrkld_regularizer, others=mask, masked=True, by_image=False),
    **{
        f"OutputAdversarialLoss, {objective}, {of}": Case(partial(output_adversarial, objective, of), exact=False)
        for objective in ("bce", "least_squares")
        for of in ("probabilities", "entropy")
    },
    **{
        f"FineGrainedAdversarialLoss, {encoding}": Case(partial(fine_grained, encoding), 2 * K, target_logits)
        for encoding in ("soft", "hard")
    },
}
MASKED = [name for name, case in CASES.items() if case.masked]
BY_IMAGE = [name for name, case in CASES.items() if case.by_image]


def inputs(case: Case, batch: int = B, dtype: torch.dtype = torch.float64, nothing: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    return [3 * torch.randn(batch, case.channels, H, W, dtype=dtype), *case.others(batch, dtype, nothing)]


def made(case: Case, **options: Any) -> Call:
    torch.manual_seed(1)
    return case.make(**options)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str) -> None:
    case = CASES[name]
    x, *others = (each[:1, ..., :4, :4] for each in inputs(case))
    assert torch.autograd.gradcheck(
        lambda x: made(case)(x, *others), (x.clone().requires_grad_(),), fast_mode=case.channels == D
    )


@pytest.mark.parametrize("name", BY_IMAGE)
def test_mean_over_images(name: str) -> None:
    case = CASES[name]
    given = inputs(case)
    if case.masked:
        given[-1][1] = 255 if given[-1].dtype == torch.int64 else False  # an image without a pixel adds 0
    singles = torch.stack([made(case)(*(each[i : i + 1] for each in given)) for i in range(B)])
    torch.testing.assert_close(made(case)(*given), singles.mean())
    torch.testing.assert_close(made(case, reduction="none")(*given), singles)
    assert made(case, reduction="none")(*(each[:0] for each in given)).shape == (0,)
    with pytest.raises(ValueError, match="reduction"):
        made(case, reduction="sum")(*given)


@pytest.mark.parametrize(("name", "batch"), [*((name, 0) for name in CASES), *((name, B) for name in MASKED)])
def test_exact_zero_on_the_graph_where_nothing_counts(name: str, batch: int) -> None:
    x, *others = inputs(CASES[name], batch, torch.float32, nothing=True)
    value = made(CASES[name])(x.requires_grad_(), *others)
    assert value.item() == 0.0
    value.backward()
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", MASKED)
def test_masked_values_reach_neither_value_nor_gradient(name: str, broken: float) -> None:
    x, *others = inputs(CASES[name])
    counted = others[-1] if others[-1].dtype == torch.bool else others[-1] != 255
    clean, spoilt = x.requires_grad_(), torch.where(counted[:, None], x.detach(), broken).requires_grad_()
    values = [made(CASES[name])(each, *others) for each in (clean, spoilt)]
    assert torch.equal(*values)
    sum(values).backward()
    assert clean.grad is not None
    assert clean.grad.any()
    assert torch.equal(spoilt.grad, clean.grad)


@pytest.mark.parametrize("name", MASKED)
def test_a_broken_value_that_counts_is_seen(name: str) -> None:
    x, *others = inputs(CASES[name])
    assert not made(CASES[name])(torch.full_like(x, torch.nan), *others).isfinite()


@pytest.mark.parametrize("name", CASES)
def test_a_loss_owns_neither_weights_nor_state(name: str) -> None:
    loss = made(CASES[name])
    module = getattr(loss, "__self__", loss)
    if isinstance(module, nn.Module):
        assert not module.state_dict()
        assert not list(module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_gives_single_precision_losses(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    given = [each.to(dtype) if each.is_floating_point() else each for each in inputs(case)]
    single = [each.float() if each.is_floating_point() else each for each in given]
    expected = made(case)(*single)
    tolerance = {"rtol": 0, "atol": 0} if case.exact else {"rtol": 0.01, "atol": 1e-3}
    with torch.autocast("cpu", dtype):
        values = [made(case)(*given), made(case)(*single)]
    for value in (*values, made(case)(*given)):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, **tolerance)


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith(("l1_squared", "l2", "cosine"))])
def test_compiled(name: str) -> None:
    torch.use_deterministic_algorithms(False)
    torch.compiler.reset()
    check_same(made(CASES[name]), *inputs(CASES[name]))
    torch.compiler.reset()


@pytest.mark.parametrize("name", CASES)
def test_any_memory_layout(name: str) -> None:
    given = inputs(CASES[name])
    turned = [each.mT.contiguous().mT for each in given]
    last = [each.to(memory_format=torch.channels_last) if each.ndim == 4 else each for each in given]
    for other in (turned, last):
        torch.testing.assert_close(made(CASES[name])(*other), made(CASES[name])(*given))
