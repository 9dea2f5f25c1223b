"""The most probable class is torch's, value and index, whatever is in the maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stuffinstance._numerics import best_class

GENERATOR = torch.Generator().manual_seed(0)
MAPS = {
    "scores": torch.randn(2, 19, 7, 9, generator=GENERATOR),
    "ties": torch.randint(0, 3, (2, 19, 7, 9), generator=GENERATOR).float(),
    "all equal": torch.zeros(1, 5, 3, 4),
    "one class": torch.randn(1, 1, 3, 4, generator=GENERATOR),
    "255 classes": torch.randn(1, 255, 2, 3, generator=GENERATOR),
    "300 classes": torch.randint(0, 200, (1, 300, 4, 5), generator=GENERATOR).float(),
    "double": torch.randn(1, 4, 3, 4, generator=GENERATOR, dtype=torch.float64),
    "bfloat16": torch.randn(1, 19, 3, 4, generator=GENERATOR).bfloat16(),
    "half": torch.randn(1, 19, 3, 4, generator=GENERATOR).half(),
    "integers": torch.randint(0, 9, (1, 4, 3, 4), generator=GENERATOR),
    "infinite": torch.tensor([1.0, torch.inf, torch.inf, -torch.inf]).view(1, 4, 1, 1),
    "not a number": torch.tensor([1.0, torch.nan, 5.0, torch.nan]).view(1, 4, 1, 1),
    "not contiguous": torch.randn(2, 7, 9, 19, generator=GENERATOR).permute(0, 3, 1, 2),
    "no pixel": torch.zeros(2, 3, 0, 4),
}


@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS.keys())
def test_it_is_what_torch_finds(maps: Tensor) -> None:
    values, classes = best_class(maps)
    expected = maps.max(1)
    torch.testing.assert_close(values, expected.values, rtol=0, atol=0, equal_nan=True)
    assert classes.dtype == torch.int64
    assert torch.equal(classes, expected.indices)


def test_it_compiles_without_a_graph_break() -> None:
    maps = MAPS["scores"]
    values, classes = torch.compile(best_class, fullgraph=True, backend="aot_eager")(maps)
    assert torch.equal(values, maps.amax(1))
    assert torch.equal(classes, maps.argmax(1))
