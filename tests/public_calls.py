"""Calls of the public functions and of the modules without state of their own, on small inputs, for tests of them all.

A loss is here as a function of the tensor that it is differentiable in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import stuffinstance as si

SPACE = si.LabelSpace(names=tuple("abcd"), stuff=(0, 1), things=(2, 3))
B, D, K, H, W = 2, 5, 4, 6, 8


class Loss(NamedTuple):
    """A function of one differentiable tensor, (B, C, H, W) with C of ``channels``, to a scalar."""

    channels: int
    call: Callable[[Tensor], Tensor]


def labels(images: int = B) -> Tensor:
    coarse = torch.arange(images * (H // 2) * (W // 2)).view(images, H // 2, W // 2) * 7 % 5 % K
    return coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)


def logits(dtype: torch.dtype = torch.float32, images: int = B) -> Tensor:
    scores = 3 * nn.functional.one_hot(labels(images), K).movedim(3, 1)
    return scores.to(dtype) + torch.randn(images, K, H, W, dtype=dtype)


def matching(preset: str, dtype: torch.dtype) -> si.StuffInstanceMatching:
    sim = si.StuffInstanceMatching(SPACE, D, preset=preset, capacity=2, max_instances=2)  # type: ignore[arg-type]
    for _ in range(6):
        sim.update(torch.randn(B, D, H, W, dtype=dtype), labels(), logits(dtype))
    return sim


def anchors(dtype: torch.dtype) -> si.CategoryAnchors:
    held = si.CategoryAnchors(K, D, min_pixels=1)
    held.update(torch.randn(B, D, H, W, dtype=dtype), labels())
    return held


def losses(dtype: torch.dtype = torch.float32) -> dict[str, Loss]:
    """Every public loss. What they are called with beside the tensor is made here, once."""
    code, paper = matching("code", dtype), matching("paper", dtype)
    held, scores = anchors(dtype), logits(dtype)
    ground_truth, some, weights = labels(), labels() != 3, torch.rand(B, H, W, dtype=dtype)
    region = labels() + 1
    patches, seen = si.OutputDiscriminator(K, width=2), si.FineGrainedDiscriminator(D, K, width=4)
    if dtype == torch.float64:
        patches, seen = patches.double(), seen.double()
    output, entropy = (
        si.OutputAdversarialLoss(nn.Conv2d(K, 1, 1, dtype=dtype), form, of)
        for form, of in (("bce", "probabilities"), ("least_squares", "entropy"))
    )  # type: ignore[misc]
    fine, hard = si.FineGrainedAdversarialLoss(seen), si.FineGrainedAdversarialLoss(seen, encoding="hard")
    soft = scores.softmax(1)
    return {
        "StuffInstanceMatching, paper": Loss(D, lambda x: sum(paper(x, scores))),  # type: ignore[arg-type, return-value]
        "StuffInstanceMatching, code": Loss(D, lambda x: sum(code(x, scores, ground_truth))),  # type: ignore[arg-type, return-value]
        "StuffMatchingLoss": Loss(D, lambda x: si.StuffMatchingLoss(paper.stuff_bank, "l2")(x, ground_truth)),
        "InstanceMatchingLoss": Loss(
            D, lambda x: si.InstanceMatchingLoss(paper.instance_bank, "cosine")(x, ground_truth)
        ),
        "AnchorDistanceLoss, code": Loss(D, lambda x: si.AnchorDistanceLoss(held)(x, ground_truth, scores)),
        "AnchorDistanceLoss, paper": Loss(D, lambda x: si.AnchorDistanceLoss(held, preset="paper")(x, ground_truth)),
        "stuff_matching_loss": Loss(D, lambda x: si.stuff_matching_loss(x, ground_truth, paper.stuff_bank)),
        "instance_matching_loss": Loss(D, lambda x: si.instance_matching_loss(x, ground_truth, paper.instance_bank)),
        "anchor_distance_loss": Loss(D, lambda x: si.anchor_distance_loss(x, ground_truth, held, logits=scores)),
        "region_mean": Loss(D, lambda x: si.region_mean(x, region, K).square().sum()),
        "EntropyLoss": Loss(K, lambda x: si.EntropyLoss()(x, some)),
        "entropy_map": Loss(K, lambda x: si.entropy_map(x.softmax(1)).square().sum()),
        "MaxSquareLoss": Loss(K, lambda x: si.MaxSquareLoss()(x, some)),
        "OutputAdversarialLoss, generator": Loss(K, output.generator_loss),
        "OutputAdversarialLoss, entropy": Loss(K, entropy.generator_loss),
        "OutputDiscriminator": Loss(
            K, lambda x: patches(x.softmax(1).repeat_interleave(6, 2).repeat_interleave(4, 3)).sum()
        ),
        "FineGrainedAdversarialLoss, soft": Loss(D, lambda x: fine.generator_loss(x, scores)),
        "FineGrainedAdversarialLoss, hard": Loss(D, lambda x: hard.generator_loss(x, scores)),
        "weighted_cross_entropy": Loss(K, lambda x: si.weighted_cross_entropy(x, ground_truth, weights)),
        "soft_cross_entropy": Loss(K, lambda x: si.soft_cross_entropy(x, soft, some)),
        "mrkld_regularizer": Loss(K, lambda x: si.mrkld_regularizer(x, some)),
        "random_block_mask": Loss(
            3, lambda x: si.random_block_mask(x, 2, generator=torch.Generator().manual_seed(1)).square().sum()
        ),
    }


def others(dtype: torch.dtype = torch.float32) -> dict[str, Callable[[], object]]:
    """Public calls without a gradient, of functions and of modules without statistics of their own."""
    images, features, scores = torch.rand(B, 3, H, W, dtype=dtype), torch.randn(B, D, H, W, dtype=dtype), logits(dtype)
    ground_truth, probabilities = labels(), logits(dtype).softmax(1)
    network = nn.Conv2d(3, K, 1, dtype=dtype)
    thresholds = torch.full((K,), 0.5, dtype=dtype)
    return {
        "StuffInstanceMatching.update": lambda: matching("paper", dtype).update(features, ground_truth, scores),
        "StuffBank": lambda: si.StuffBank((0, 1), D).update(features, ground_truth),
        "InstanceBank": lambda: si.InstanceBank((2, 3), D).update(features, ground_truth),
        "matches": lambda: si.StuffMatchingLoss(matching("paper", dtype).stuff_bank).matches(features, ground_truth),
        "a distance of one's own": lambda: si.StuffMatchingLoss(
            si.StuffBank((0,), D), lambda a, b: (a - b).abs().mean(-1)
        )(features, ground_truth),
        "class_center_distance": lambda: si.class_center_distance(features, ground_truth, K),
        "head_classifier": lambda: si.head_classifier(nn.Conv2d(D, K, 1, dtype=dtype))(features[:, :, 0, 0]),
        "class_mix": lambda: si.class_mix(images, ground_truth, images, ground_truth),
        "confident_fraction": lambda: si.confident_fraction(probabilities),
        "soft_labels": lambda: si.soft_labels(probabilities, thresholds),
        "fourier_amplitude_transfer": lambda: si.fourier_amplitude_transfer(images, images.flip(0)),
        "lab_color_transfer": lambda: si.lab_color_transfer(images, images.flip(0)),
        "MeanTeacher": lambda: (lambda teacher: (teacher.update(network), teacher(images)))(si.MeanTeacher(network)),
        "correct_labels": lambda: si.correct_labels(ground_truth, scores),
        "merge_pseudo_labels": lambda: si.merge_pseudo_labels(ground_truth, ground_truth),
        "resize_labels": lambda: si.resize_labels(ground_truth, (3, 3)),
        "connected_components": lambda: si.connected_components(ground_truth),
        "instance_regions": lambda: si.instance_regions(ground_truth, (2, 3)),
        "stuff_regions": lambda: si.stuff_regions(ground_truth, (0, 1)),
    }
