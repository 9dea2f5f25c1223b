"""How a mean teacher is copied from its network: hooks, tensors with history, modules that cannot be copied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import stuffinstance as si
from tests.test_mean_teacher import network


def test_hooks_from_outside_are_not_run_by_the_teacher() -> None:
    student = network()
    kept: dict[str, Tensor] = {}
    ran: list[str] = []

    class Trainer:
        def hook(self, *_: Any) -> None:
            ran.append("method")

    student[0].register_forward_hook(lambda _, images, features: kept.update(features=features))
    student[1].register_forward_pre_hook(Trainer().hook)
    student[3].register_forward_hook(partial(lambda name, *_: ran.append(name), "partial"))
    student.register_full_backward_pre_hook(lambda *_: ran.append("backward"))
    student.register_full_backward_hook(lambda *_: ran.append("backward"))
    student._register_state_dict_hook(lambda *_: ran.append("saved"))
    student.register_state_dict_pre_hook(lambda *_: ran.append("saves"))
    student._register_load_state_dict_pre_hook(lambda *_: ran.append("loads"))
    student.register_load_state_dict_post_hook(lambda *_: ran.append("loaded"))
    images = torch.randn(2, 3, 6, 5)
    student(images)
    features = kept["features"]
    ran.clear()
    teacher = si.MeanTeacher(student)
    copied = deepcopy(teacher)
    for each in (teacher, copied):
        each(images)
        each.update(student)
        each.load_state_dict(each.state_dict())
    assert kept["features"] is features
    assert ran == []
    student(images.clone().requires_grad_()).sum().backward()
    assert sorted(ran) == ["backward", "backward", "method", "partial"]
    student.load_state_dict(student.state_dict())
    assert ran[-4:] == ["saves", "saved", "loads", "loaded"]
    teacher.network[0].register_forward_hook(lambda *_: ran.append("the teacher's own"))
    teacher(images)
    assert ran[-1] == "the teacher's own"


class WithOwnHooks(nn.Module):
    """As feature extractors do it: outputs are collected by hooks that are methods of the network or of its parts."""

    class Collected:
        def __init__(self) -> None:
            self.outputs: dict[str, Tensor] = {}

        def collect(self, name: str, module: nn.Module, images: tuple[Tensor], output: Tensor) -> None:
            self.outputs[name] = output

    def __init__(self) -> None:
        super().__init__()
        self.body, self.collected = nn.Conv2d(3, 4, 1), self.Collected()
        self.body.register_forward_hook(partial(self.collected.collect, "body"))
        self.body.register_forward_pre_hook(self.halve)
        self.body._register_load_state_dict_pre_hook(self.count_load)
        self.loads = 0

    def halve(self, module: nn.Module, images: tuple[Tensor]) -> Tensor:
        return images[0] / 2

    def count_load(self, *_: Any) -> None:
        self.loads += 1

    def forward(self, images: Tensor) -> Tensor:
        self.body(images)
        return self.collected.outputs["body"]


def test_hooks_of_the_network_itself_are_the_teachers_too() -> None:
    student = WithOwnHooks()
    images = torch.randn(1, 3, 2, 2)
    expected = student(images)
    teacher = si.MeanTeacher(student)
    assert torch.equal(teacher(images), expected)
    assert student.collected.outputs["body"] is expected
    assert teacher.network.collected.outputs["body"] is not expected
    teacher.load_state_dict(teacher.state_dict())
    assert (student.loads, teacher.network.loads) == (0, 1)


class KeepsFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 1)
        self.features: dict[str, list[Tensor]] = {}

    def forward(self, images: Tensor) -> Tensor:
        self.features["all"] = [self.body(images)]
        return self.features["all"][0]


class Statistic(nn.Module):
    """A buffer that forward assigns anew, with history."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 1)
        self.register_buffer("mean", torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.body(images)
        if self.training:
            self.mean = 0.9 * self.mean.detach() + 0.1 * output.mean()
        return output / self.mean


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Conv2d(3, 4, 1), "weight", amount=3)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "make",
    [
        KeepsFeatures,
        Statistic,
        pruned,
        lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 1)),
        lambda: spectral_norm(nn.Conv2d(3, 4, 1)),
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 1)),
        lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 1)),
        lambda: parametrizations.orthogonal(nn.Linear(3, 4)),
    ],
)
@pytest.mark.parametrize("handed_in", [False, True])
def test_networks_that_hold_tensors_with_history(make: Callable[[], nn.Module], handed_in: bool) -> None:
    student = make()
    images = torch.randn(2, 3) if isinstance(student, nn.Linear) else torch.randn(2, 3, 6, 5)
    student(images)
    teacher = si.MeanTeacher(student, alpha=0, teacher=make() if handed_in else None)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for _ in range(2):
        student.train()
        optimizer.zero_grad()
        student(images).square().mean().backward()
        optimizer.step()
        student.eval()
        assert not torch.allclose(teacher(images), student(images))
        teacher.update(student)
        torch.testing.assert_close(teacher(images), student(images))  # with alpha = 0 it is the student
    assert not any(tensor.requires_grad for tensor in (*teacher.parameters(), *teacher.buffers()))
    assert set(teacher.network.state_dict()) == set(student.state_dict())


class Uncopyable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = network()
        self.block[1].lock = threading.Lock()

    def forward(self, images: Tensor) -> Tensor:
        return self.block(images)


def test_what_cannot_be_copied_is_named_and_a_teacher_can_be_handed_in() -> None:
    student, other = Uncopyable(), Uncopyable().train()
    with pytest.raises(TypeError, match=r"got lock in block\.1\.lock \(TypeError: .*\)\. Remove.*pass teacher="):
        si.MeanTeacher(student)
    teacher = si.MeanTeacher(student, teacher=other)
    assert teacher.network is other
    assert not any(module.training for module in other.modules())
    assert not any(parameter.requires_grad for parameter in other.parameters())
    for name, value in student.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    images = torch.randn(2, 3, 6, 5)
    student.train()(images)
    teacher.update(student)
    torch.testing.assert_close(teacher(images), student.eval()(images))


def test_a_teacher_that_does_not_fit_is_an_error() -> None:
    student, tied, odd = network(), network(), network()
    tied[3], odd[1] = student[3], nn.GroupNorm(1, 4)
    for teacher in (student, tied, odd, network().double(), network()[:3]):
        with pytest.raises(ValueError, match=r"(teacher|network) must"):
            si.MeanTeacher(student, teacher=teacher)
    assert all(parameter.requires_grad for parameter in student.parameters())
    with pytest.raises(TypeError, match="teacher must"):
        si.MeanTeacher(student, teacher=student.state_dict())


def test_a_transformers_backbone_that_has_run_is_copied_with_the_hooks_that_collect_its_layers() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    student = transformers.Dinov2Backbone(transformers.Dinov2Config(**sizes, out_indices=[1, 2])).eval()
    images = torch.rand(1, 3, 16, 16)
    expected = student(images).feature_maps
    found = si.MeanTeacher(student)(images).feature_maps
    assert len(found) == 2
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
