"""The library's façade and the oracle side by side, fed the same steps."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

import stuffinstance as si
from tests import oracles
from tests.random_cases import IGNORE, Case, Step

Preset = Literal["code", "paper"]


def head_of(case: Case) -> torch.nn.Linear:
    head = torch.nn.Linear(case.feature_dim, case.classes, bias=False)
    head.weight.data.copy_(torch.from_numpy(case.head))
    return head.requires_grad_(False)


def facade_of(case: Case, preset: Preset, *, filtered: bool = False, **options: object) -> si.StuffInstanceMatching:
    names = tuple(f"class {k}" for k in range(case.classes))
    space = si.LabelSpace(names=names, stuff=case.stuff, things=case.things, ignore_index=IGNORE)
    return si.StuffInstanceMatching(
        space,
        case.feature_dim,
        preset=preset,
        capacity=case.capacity,
        max_instances=case.max_instances,
        classifier=head_of(case) if filtered else None,
        **options,
    )


def oracle_of(case: Case, preset: Preset, *, filtered: bool = False) -> oracles.Sim:
    head = case.head.astype(np.float64) if filtered else None
    return oracles.Sim(case.stuff, case.things, case.capacity, case.max_instances, preset, head)


def source_of(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    arrays = (step.source_features, step.source_labels, step.source_logits)
    features, labels, logits = (torch.from_numpy(x) for x in arrays)
    return features, labels, logits


def target_of(step: Step) -> tuple[Tensor, Tensor, Tensor | None]:
    pseudo = None if step.pseudo_labels is None else torch.from_numpy(step.pseudo_labels)
    return torch.from_numpy(step.target_features), torch.from_numpy(step.target_logits), pseudo


def update_oracle(sim: oracles.Sim, step: Step) -> None:
    """The images of the batch one by one."""
    rows = zip(step.source_features.astype(np.float64), step.source_labels, step.source_logits, strict=True)
    for features, labels, logits in rows:
        sim.update(features, labels, logits.astype(np.float64))


def oracle_losses(sim: oracles.Sim, step: Step) -> tuple[float, np.ndarray, float, np.ndarray]:
    """Means over the images, and the gradients of those means."""
    batch = len(step.target_features)
    singles = [
        sim.losses(
            step.target_features[b].astype(np.float64),
            step.target_logits[b].astype(np.float64),
            None if step.pseudo_labels is None else step.pseudo_labels[b],
        )
        for b in range(batch)
    ]
    stuff, instance = (sum(single[i] for single in singles) / batch for i in (0, 2))
    slopes = [np.stack([single[i] for single in singles]) / batch for i in (1, 3)]
    return stuff, slopes[0], instance, slopes[1]


def assert_bank_equals(bank: si.StuffBank | si.InstanceBank, expected: oracles.ListBank) -> None:
    """Counters exactly, rows in the same slots, and the mask of filled slots."""
    assert bank.written.tolist() == list(expected.written.values())
    for position, slots in enumerate(expected.slots.values()):
        assert bank.filled[position].tolist() == [row is not None for row in slots]
        for slot, row in enumerate(slots):
            if row is not None:
                actual = bank.features[position, slot].double().numpy()
                np.testing.assert_allclose(actual, row, rtol=1e-5, atol=1e-6)
