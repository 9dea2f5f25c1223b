"""The recorded training of the authors' code, repeated by the façade and by its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import stuffinstance as si

Recording = dict[str, np.ndarray]


def linear_head(recorded: Recording) -> torch.nn.Linear:
    weight = torch.from_numpy(recorded["head_weight"])
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data.copy_(weight)
    return head.requires_grad_(False)


def logits_of(head: torch.nn.Linear, features: Tensor) -> Tensor:
    return torch.einsum("kd,bdhw->bkhw", head.weight, features)


def check_close(actual: Tensor, expected: np.ndarray) -> None:
    """Within 1e-5 relative: each number, or for a gradient the largest deviation of its largest entry."""
    wanted = torch.from_numpy(np.asarray(expected)).double()
    bound = 1e-5 * float(wanted.abs().max())
    assert float((actual.double() - wanted).abs().max()) <= bound


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_facade_repeats_all_iterations(golden_sim: Recording, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    head = linear_head(golden_sim).to(device)
    capacity, most = int(golden_sim["capacity"]), int(golden_sim["max_instances"])
    sim = si.StuffInstanceMatching(
        si.CITYSCAPES, head.in_features, capacity=capacity, max_instances=most, classifier=head
    ).to(device)
    for t in range(len(golden_sim["loss_stuff"])):
        source = torch.from_numpy(golden_sim["source_features"][t])[None].to(device)
        target = torch.from_numpy(golden_sim["target_features"][t])[None].to(device).requires_grad_()
        labels = torch.from_numpy(golden_sim["source_labels"][t])[None].to(device)
        sim.update(source, labels, logits_of(head, source))
        assert sim.stuff_bank.written.tolist() == golden_sim["stuff_count"][t].tolist()
        assert sim.instance_bank.written.tolist() == golden_sim["instance_count"][t].tolist()
        losses = sim(target, logits_of(head, target))
        for kind, loss in zip(("stuff", "instance"), losses, strict=True):
            check_close(loss.detach().cpu(), golden_sim[f"loss_{kind}"][t])
            (gradient,) = torch.autograd.grad(loss, target, retain_graph=True)
            check_close(gradient[0].cpu(), golden_sim[f"grad_{kind}"][t])
    check_close(sim.stuff_bank.features.cpu(), golden_sim["stuff_bank"])
    check_close(sim.instance_bank.features.cpu(), golden_sim["instance_bank"])


def test_parts_repeat_all_iterations_in_batches(golden_sim: Recording) -> None:
    """Banks fed five images at a time, and then losses over five: sums of the recorded numbers."""
    head = linear_head(golden_sim)
    space, dim = si.CITYSCAPES, head.in_features
    capacity, most = int(golden_sim["capacity"]), int(golden_sim["max_instances"])
    stuff_bank = si.StuffBank(space.stuff, dim, capacity)
    instance_bank = si.InstanceBank(space.things, dim, capacity * most, most)
    for t in range(0, 40, 5):
        source = torch.from_numpy(golden_sim["source_features"][t : t + 5])
        labels = torch.from_numpy(golden_sim["source_labels"][t : t + 5])
        correct = si.correct_labels(labels, logits_of(head, source))
        stuff_bank.update(source, correct, head)
        instance_bank.update(source, correct, head)
        assert stuff_bank.written.tolist() == golden_sim["stuff_count"][t + 4].tolist()
        assert instance_bank.written.tolist() == golden_sim["instance_count"][t + 4].tolist()
    check_close(stuff_bank.features, golden_sim["stuff_bank"])
    check_close(instance_bank.features, golden_sim["instance_bank"])
    last = torch.from_numpy(golden_sim["target_features"][39:40])
    predicted = logits_of(head, last).argmax(1)
    stuff = si.StuffMatchingLoss(stuff_bank, distance="l1_mean", require_full_bank=True, classifier=head)
    instance = si.InstanceMatchingLoss(instance_bank, distance="l1_mean", require_full_bank=True)
    check_close(stuff(last, predicted), golden_sim["loss_stuff"][39])
    check_close(instance(last, predicted), golden_sim["loss_instance"][39])
