"""The teacher: the mean by its formula, its mode, its state, and networks that are not its own."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

import stuffinstance as si
from tests.distributed.process_groups import group_of_one


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))


def trained(student: nn.Sequential, steps: int) -> Iterator[nn.Sequential]:
    """The student after each step of a real optimizer."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        student(torch.randn(2, 3, 6, 5)).square().mean().backward()
        optimizer.step()
        yield student


@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize("alpha", [0.999, 0.6, 0.0, 1.0])
def test_the_teacher_is_the_exponential_mean(alpha: float, ramp: bool) -> None:
    student = network()
    teacher = si.MeanTeacher(student, alpha, ramp=ramp)
    expected = {name: value.detach().double().clone() for name, value in student.named_parameters()}
    for t, student_now in enumerate(trained(student, 6), start=1):
        teacher.update(student_now)
        share = min(1 - 1 / (t + 1), alpha) if ramp else alpha
        for name, value in student_now.named_parameters():
            expected[name] = share * expected[name] + (1 - share) * value.detach().double()
            actual = teacher.network.get_parameter(name).double()
            torch.testing.assert_close(actual, expected[name], rtol=0, atol=1e-6)
        for name, value in student_now.named_buffers():
            assert torch.equal(teacher.network.get_buffer(name), value), name
    assert int(teacher.steps) == 6


@pytest.mark.parametrize("ramp", [True, False])
def test_an_unchanged_network_leaves_the_teacher_bit_for_bit(ramp: bool) -> None:
    student = network()
    teacher = si.MeanTeacher(student, ramp=ramp)
    for _ in range(50):
        teacher.update(student)
    for own, new in zip(teacher.network.parameters(), student.parameters(), strict=True):
        assert torch.equal(own, new)


def test_the_teacher_takes_no_gradient_and_gives_none() -> None:
    student = network()
    teacher = si.MeanTeacher(student)
    images = torch.randn(2, 3, 6, 5, requires_grad=True)
    assert not teacher(images).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    own = {id(parameter) for parameter in student.parameters()}
    assert not own & {id(parameter) for parameter in teacher.parameters()}
    student(images).sum().backward()
    teacher.update(student)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_stays_in_evaluation_mode() -> None:
    teacher = si.MeanTeacher(network().train())
    owner = nn.ModuleDict({"teacher": teacher})
    images = torch.randn(4, 3, 6, 5)
    for mode in (True, False):
        owner.train(mode)
        assert teacher.training == mode
        assert not any(module.training for module in teacher.network.modules())
        before = teacher.network[1].running_mean.clone()
        alone = torch.cat([teacher(images[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(teacher(images), alone)
        assert torch.equal(teacher.network[1].running_mean, before)


def test_state_and_copies_go_on_as_the_teacher_would() -> None:
    student = network()
    teacher = si.MeanTeacher(student)
    for student_now in trained(student, 3):
        teacher.update(student_now)
    copied, restored = deepcopy(teacher), si.MeanTeacher(network())
    restored.load_state_dict(teacher.state_dict())
    assert int(restored.steps) == int(copied.steps) == 3
    for student_now in trained(student, 2):
        for each in (teacher, copied, restored):
            each.update(student_now)
    for name, value in teacher.state_dict().items():
        assert torch.equal(copied.state_dict()[name], value), name
        assert torch.equal(restored.state_dict()[name], value), name


def test_frozen_half_precision_stays_and_whole_numbers_are_copied() -> None:
    frozen, table = nn.Linear(2, 2).to(torch.bfloat16).requires_grad_(False), nn.Module()
    table.ids = nn.Parameter(torch.arange(3), requires_grad=False)
    student = nn.ModuleDict({"frozen": frozen, "table": table, "head": nn.Linear(2, 1)})
    teacher = si.MeanTeacher(student)
    table.ids += 2
    teacher.update(student)
    assert torch.equal(teacher.network["frozen"].weight, frozen.weight)
    assert torch.equal(teacher.network["table"].ids, table.ids)


def test_a_network_without_parameters_or_buffers_is_one_too() -> None:
    on_meta = si.MeanTeacher(network().to("meta"))
    on_meta.update(network().to("meta"))
    teacher = si.MeanTeacher(nn.ReLU())
    teacher.update(nn.ReLU())
    assert int(teacher.steps) == 1
    assert teacher(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]


def test_another_network_raises_and_changes_nothing() -> None:
    teacher, wider = si.MeanTeacher(network()), network()
    before = deepcopy(teacher.state_dict())
    wider[3] = nn.Conv2d(4, 3, 1)
    for other in (network()[:3], wider, network().to("meta"), nn.ModuleDict({"module": network()})):
        with pytest.raises(ValueError, match=r"network must (have|be on) the teacher's"):
            teacher.update(other)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_lazy_network_has_to_run_first() -> None:
    student = nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d())
    with pytest.raises(ValueError, match="not initialized yet"):
        si.MeanTeacher(student)
    student(torch.rand(2, 3, 4, 4))
    teacher = si.MeanTeacher(student)
    teacher.update(student)
    assert teacher(torch.rand(2, 3, 4, 4)).shape == (2, 4, 4, 4)


class Table(nn.Module):
    """Buffers of a size that is known later; two begin as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        start = torch.zeros(1)
        self.body = nn.Linear(1, 1)
        for name in ("first", "second"):
            self.register_buffer(name, start)
        self.register_buffer("expanded", start.expand(3))
        self.register_buffer("unset", None)


def test_buffers_are_followed_in_any_size() -> None:
    student = nn.ModuleDict({"table": Table()})
    teacher = si.MeanTeacher(student)
    table = student["table"]
    for size in (1, 4, 0, 2):
        table.first, table.second = torch.rand(size), torch.rand(size)
        table.expanded = torch.rand(3)
        table.unset = torch.rand(size) if size else None
        teacher.update(student)
        for name, value in student.named_buffers():
            assert torch.equal(teacher.network.get_buffer(name), value), (size, name)
            assert teacher.network.get_buffer(name) is not value
        assert (teacher.network["table"].unset is None) == (size == 0)
        restored = deepcopy(teacher)
        restored.load_state_dict(teacher.state_dict())
    teacher.update(nn.ModuleDict({"table": deepcopy(table)}))
    table.register_buffer("later", torch.zeros(1))
    with pytest.raises(ValueError, match=r"buffers .* 1 that differ, first: table\.later, which only network has"):
        teacher.update(student)


class Tied(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        if tied:
            self.outer.weight = self.inner.weight


def test_tied_parameters_are_averaged_once() -> None:
    student, apart = Tied(), Tied(tied=False)
    teacher = si.MeanTeacher(student)
    others = si.MeanTeacher(student, teacher=apart)
    before = student.inner.weight.detach().clone()
    nn.init.ones_(student.inner.weight)
    for each in (teacher, others):
        each.update(student)
        torch.testing.assert_close(each.network.inner.weight, (before + 1) / 2)
        torch.testing.assert_close(each.network.outer.weight, (before + 1) / 2)
    assert teacher.network.outer.weight is teacher.network.inner.weight
    with pytest.raises(ValueError, match=r"tie the parameters .*, got outer\.weight apart from inner\.weight"):
        teacher.update(Tied(tied=False))


@pytest.mark.usefixtures("compiling")
def test_a_compiled_student() -> None:
    student = network()
    compiled = torch.compile(student, backend="aot_eager")
    teacher, plain = si.MeanTeacher(compiled), si.MeanTeacher(student)
    update = torch.compile(teacher.update, backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 3, 6, 5)
    compiled(images)
    teacher.update(compiled)
    update(compiled)
    for _ in range(2):
        plain.update(student)
    assert list(teacher.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(teacher.state_dict()[name], value)
    torch.testing.assert_close(torch.compile(teacher, backend="aot_eager")(images), plain(images))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_students_in_data_parallelism(tmp_path: Path) -> None:
    with group_of_one(tmp_path):
        _average_a_student_in_data_parallelism()


def _average_a_student_in_data_parallelism() -> None:
    student = network()
    wrapped = nn.parallel.DistributedDataParallel(student)
    teacher = si.MeanTeacher(wrapped)
    nn.init.ones_(student[3].weight)
    before = teacher.network[3].weight.clone()
    wrapped(torch.randn(2, 3, 6, 5)).sum().backward()
    teacher.update(wrapped)
    torch.testing.assert_close(teacher.network[3].weight, (before + 1) / 2)
    assert list(teacher.network.state_dict()) == list(student.state_dict())
    teacher.update(student)
    si.MeanTeacher(nn.DataParallel(student)).update(nn.DataParallel(student))
