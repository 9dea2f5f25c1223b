"""What a type checker knows of a caller's code: results have their types, wrong arguments are found."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import stuffinstance

ROOT = Path(stuffinstance.__file__).parent
REPOSITORY = Path(__file__).parents[2]

SNIPPET = """
import torch
from torch import Tensor
from typing_extensions import assert_type

import stuffinstance as si

x = torch.zeros(1, 4, 2, 2)
labels = torch.zeros(1, 2, 2, dtype=torch.long)

sim = si.StuffInstanceMatching(si.CITYSCAPES, feature_dim=4)
assert_type(sim(x, x), si.MatchingLosses)
assert_type(sim(x, x, pseudo_labels=labels).stuff, Tensor)
assert_type(sim.update(x, labels, x), None)
assert_type(sim.stuff_bank, si.StuffBank)
assert_type(sim.instance_loss, si.InstanceMatchingLoss)
assert_type(sim.stuff_loss(x, labels), Tensor)
assert_type(si.InstanceMatchingLoss(sim.instance_bank, lambda a, b: (a - b).abs().mean(-1))(x, labels), Tensor)
assert_type(si.AnchorDistanceLoss(si.CategoryAnchors(4, 4))(x, labels), Tensor)
assert_type(si.EntropyLoss()(x), Tensor)
assert_type(si.MaxSquareLoss()(x, mask=None), Tensor)
discriminator = si.OutputDiscriminator(4)
assert_type(discriminator(x), Tensor)
assert_type(si.OutputAdversarialLoss(discriminator).generator_loss(x), Tensor)
assert_type(si.FineGrainedDiscriminator(4, 4)(x), Tensor)
score = si.MeanIoU(4)
assert_type(score.update(x, labels), None)
assert_type(score.compute(), si.IoU)
assert_type(score(x, labels), si.IoU)
assert_type(si.ClassCenterDistance(4, 4)(x, labels), Tensor)
assert_type(si.PredictionEntropy(4)(x), float)
assert_type(si.SoftNeighborhoodDensity()(x), float)
assert_type(score.compute().mean, float)
threshold = si.ClassBalancedThreshold(4)
assert_type(threshold.update(x), None)
assert_type(threshold.compute(), Tensor)
assert_type(threshold.pseudo_labels(x), Tensor)
assert_type(si.SymmetricConsistency(threshold)(x, x), si.FusedPrediction)
assert_type(si.class_mix(x, labels, x, labels), si.ClassMixOutput)
assert_type(si.soft_labels(x, x), tuple[Tensor, Tensor])
assert_type(si.class_center_distance(x, labels, 4), Tensor)

sim(x)  # wrong
sim(x, x, labels, 3)  # wrong
sim.stuff_loss(x, wanted=labels)  # wrong
si.EntropyLoss()("logits")  # wrong
"""


def test_mypy_knows_what_calls_return(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "caller.py").write_text(SNIPPET, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(tmp_path / "caller.py")]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=230)
    found = {int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line}
    wrong = {number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, result.stdout + result.stderr


@functools.cache
def modules_with_forward() -> dict[str, tuple[ast.FunctionDef, ast.ClassDef]]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(kind, ast.ClassDef):
                for member in kind.body:
                    static = isinstance(member, ast.FunctionDef) and any(
                        isinstance(each, ast.Name) and each.id == "staticmethod" for each in member.decorator_list
                    )
                    if isinstance(member, ast.FunctionDef) and member.name == "forward" and not static:
                        found[kind.name] = (member, kind)
    return found


# Returns whatever the network returns.
UNTYPED = {"MeanTeacher"}


@pytest.mark.parametrize("name", sorted(set(modules_with_forward()) - UNTYPED))
def test_the_call_of_a_module_has_the_signature_of_its_forward(name: str) -> None:
    forward, kind = modules_with_forward()[name]
    calls = [
        member
        for block in kind.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for member in block.body
        if isinstance(member, ast.FunctionDef) and member.name == "__call__"
    ]
    assert len(calls) == 1, f"{name}: to a type checker its call is Any"
    assert ast.unparse(calls[0].args) == ast.unparse(forward.args)
    assert ast.unparse(calls[0].returns) == ast.unparse(forward.returns)
