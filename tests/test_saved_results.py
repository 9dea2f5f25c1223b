"""Results and label spaces in checkpoints: torch.load reads them with weights_only=True."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from copy import copy, deepcopy
from typing import Any

import numpy as np
import pytest
import torch

import stuffinstance as si
from tests.public_calls import CALLS, Maps

SPACE = si.LabelSpace(names=("road", "sky", "car"), stuff=(0, 1), things=(2,), palette=[(1, 2, 3)] * 3)


def loaded(value: Any) -> Any:
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def iou() -> si.IoU:
    score = si.MeanIoU(2)
    score.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]))
    return score.compute()


RESULTS = (
    "instance_regions", "StuffInstanceMatching.forward", "InstanceMatchingLoss.matches",
    "class_mix", "SymmetricConsistency.forward", "MeanIoU.compute",
)  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_loaded_as_they_were(name: str) -> None:
    result = CALLS[name].bound()(**CALLS[name].arguments(Maps()))
    again = loaded({"kept": [result]})["kept"][0]
    assert type(again) is type(result)
    torch.testing.assert_close(tuple(again), tuple(result), rtol=0, atol=0, equal_nan=True)
    assert again._fields == result._fields


@pytest.mark.parametrize(
    "space", [si.CITYSCAPES, si.SYNTHIA_13, SPACE, si.LabelSpace(stuff=[0], things=[1], ignore_index=-1)]
)
def test_label_spaces_are_loaded_as_they_were(space: si.LabelSpace) -> None:
    for again in (loaded({"space": space})["space"], pickle.loads(pickle.dumps(space)), copy(space), deepcopy(space)):
        assert again == space
        assert hash(again) == hash(space)
        assert again.ids(space.names) == tuple(range(space.num_classes))
    assert loaded(si.LabelSpace(names=np.array(["a", "b"]))).names == ("a", "b")


class Wrong:
    """Pickled as a call of LabelSpace with what it does not take."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return si.LabelSpace, self.arguments


def test_a_label_space_is_checked_when_it_is_loaded() -> None:
    with pytest.raises(ValueError, match="names must be distinct"):
        loaded(Wrong(("a", "a")))
    with pytest.raises(ValueError, match="stuff and things must not share a class"):
        loaded(Wrong(("a", "b"), (0,), (0,)))


def test_every_result_and_nothing_that_runs_code_is_allowed() -> None:
    """Tuples of fields and the label space alone, of which none has a hook that a file could fill."""
    allowed = {each for each in torch.serialization.get_safe_globals() if each.__module__.startswith("stuffinstance")}
    results = {each for each in vars(si).values() if isinstance(each, type) and issubclass(each, tuple)}
    assert results < allowed
    assert allowed - results == {si.LabelSpace}
    for result in results:
        assert "__reduce__" not in vars(result)
        assert "__setstate__" not in vars(result)


def test_a_checkpoint_is_read_in_another_process_after_the_import(tmp_path: Any) -> None:
    torch.save({"space": SPACE, "iou": iou()}, tmp_path / "last.pt")
    code = (
        "import sys, torch, stuffinstance\n"
        "kept = torch.load(sys.argv[1], weights_only=True)\n"
        "print(kept['space'].names[2], kept['iou'].mean)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "last.pt"], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["car", "1.0"]
