"""The page about torch.compile: its loop trains, and gives what it gives without compiling."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.howto.trainer_page import TrainerPage, banks, check_training, run, weights
from tests.howto.two_cities import batches, given

# The compiler asks every tensor for its gradient.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.usefixtures("compiling"),
]
PAGE = TrainerPage("compile")


@pytest.fixture(autouse=True)
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated as always, and then run by PyTorch itself: no C++ compiler is needed."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def trained(code: str) -> dict[str, Any]:
    names = given()
    return run(code, {**names, "batches": batches(names)})


def test_it_trains_with_the_lines_and_without() -> None:
    PAGE.check_count()
    without = trained(PAGE.trainer_before)["network"]
    names = trained(PAGE.trainer)
    check_training(names["sim"], names["network"], weights(given()["network"]), weights(without))
    plain = trained(PAGE.trainer.replace("network.compile()", "").replace("sim.compile(fullgraph=True)", ""))
    # Not the first layer: the bias before a normalization has no gradient but rounding, which AdamW blows up.
    head, plain_head = names["network"].head, plain["network"].head
    torch.testing.assert_close(weights(head), weights(plain_head), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(banks(names["sim"]), banks(plain["sim"]), rtol=1e-3, atol=1e-4)
    assert set(names["sim"].state_dict()) == set(plain["sim"].state_dict())


def test_a_compiled_update_writes_the_same_rows() -> None:
    names = trained(PAGE.trainer)
    before = names["sim"].stuff_bank.written.clone()
    run(PAGE.further[0], names)
    assert bool((names["sim"].stuff_bank.written == before + 8).all())
