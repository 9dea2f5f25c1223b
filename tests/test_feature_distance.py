"""Feature distance losses and the frozen network that they compare with: oracles, gradients, state."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stuffinstance as si
from tests import oracles
from tests.label_maps import IGNORE

B, D, h, w, K = 3, 5, 4, 6, 4
THINGS = (3, 1)


# ------------------------------------------------------------------ to the start weights, on things


def distance_on_things(features: Tensor, start: Tensor, labels: Tensor, fraction: float) -> float:
    """Cell by cell: the mean over images of the mean distance where a thing fills enough of the cell."""
    total = 0.0
    for f, s, ids in zip(features.tolist(), start.tolist(), labels.numpy(), strict=True):
        small = oracles.majority_labels(ids, h, w, fraction)
        cells = [(i, j) for i in range(h) for j in range(w) if small[i, j] in THINGS]
        norms = [math.sqrt(sum((f[d][i][j] - s[d][i][j]) ** 2 for d in range(D))) for i, j in cells]
        total += sum(norms) / len(norms) if norms else 0.0
    return total / len(labels)


def maps_and_labels(height: int = 4 * h, width: int = 3 * w) -> tuple[Tensor, Tensor, Tensor]:
    blocks = torch.randint(K, (B, height // 6 + 1, width // 6 + 1))  # most cells lie within one
    labels = blocks.repeat_interleave(6, 1).repeat_interleave(6, 2)[:, :height, :width]
    labels = torch.where(torch.rand(labels.shape) < 0.1, IGNORE, labels)
    return torch.randn(B, D, h, w, dtype=torch.float64), torch.randn(B, D, h, w, dtype=torch.float64), labels


@pytest.mark.parametrize("size", [(4 * h, 3 * w), (17, 23), (h, w)])
@pytest.mark.parametrize("fraction", [0.75, 0.5])
def test_feature_distance_equals_the_oracle(size: tuple[int, int], fraction: float) -> None:
    features, start, labels = maps_and_labels(*size)
    expected = distance_on_things(features, start, labels, fraction)
    assert expected > 0
    loss = si.FeatureDistanceLoss(THINGS, K, fraction)
    assert loss(features, start, labels).item() == pytest.approx(expected, rel=1e-12)
    assert loss(features.float(), start.float(), labels).item() == pytest.approx(expected, rel=1e-5)


def test_stuff_and_cells_of_several_classes_do_not_count() -> None:
    features, start = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 10.0, 100.0]]]])
    labels = torch.tensor([[[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0]]])  # a thing, stuff, half of each
    assert si.FeatureDistanceLoss((1,), 2)(features, start, labels).item() == 1
    assert si.FeatureDistanceLoss((), 2)(features, start, labels).item() == 0


def test_start_weights_get_no_gradient_and_equal_features_a_finite_one() -> None:
    features, start, labels = maps_and_labels()
    features, start = start.clone().requires_grad_(), start.requires_grad_()
    value = si.FeatureDistanceLoss(THINGS, K)(features, start, labels)
    value.backward()
    assert value.item() == 0
    assert start.grad is None
    assert features.grad is not None
    assert not features.grad.any()


def test_features_of_two_dtypes_are_compared_in_that_of_the_first() -> None:
    loss = si.FeatureDistanceLoss((1,), 2)
    features, labels = torch.ones(1, 3, 2, 2), torch.ones(1, 2, 2, dtype=torch.long)
    for start in (torch.float16, torch.float64):
        assert loss(features.requires_grad_(), torch.zeros(1, 3, 2, 2, dtype=start), labels).dtype == torch.float32


def test_classes_beyond_the_labels_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"classes must be ids 0\.\.3 .*\[4\]"):
        si.FeatureDistanceLoss((1, 4), K)


# ------------------------------------------------------------------ to a foundation model


def foundation_distance(loss: si.FoundationFeatureLoss, features: Tensor, foundation: Tensor) -> float:
    """Written from the formula in numpy, cell by cell; the maps have one size, so that nothing is resized."""
    weights = {name: value.detach().double().numpy() for name, value in loss.named_parameters()}
    values = []
    for f, v in zip(features.double().numpy(), foundation.double().numpy(), strict=True):
        for i, j in np.ndindex(f.shape[1:]):
            hidden = weights["expand.weight"] @ f[:, i, j] + weights["expand.bias"]
            hidden = (hidden - hidden.mean()) / np.sqrt(((hidden - hidden.mean()) ** 2).mean() + 1e-5)
            hidden = hidden * weights["norm.weight"] + weights["norm.bias"]
            hidden = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
            g = weights["project.weight"] @ hidden + weights["project.bias"]
            apart = [abs(a - b) for a, b in zip(g, v[:, i, j], strict=True)]
            smooth = sum(0.5 * x * x if x < 1 else x - 0.5 for x in apart) / len(apart)
            cosine = (g @ v[:, i, j]) / math.sqrt((g @ g) * (v[:, i, j] @ v[:, i, j]))
            values.append(0.1 * smooth + 0.9 * (1 - cosine))
    return sum(values) / len(values)


def trained_projection(**options: str) -> si.FoundationFeatureLoss:
    torch.manual_seed(3)
    loss = si.FoundationFeatureLoss(D, 7, **options)
    for parameter in loss.parameters():
        nn.init.normal_(parameter, std=0.5)
    return loss


def test_foundation_distance_equals_the_oracle() -> None:
    loss, features, foundation = trained_projection(), torch.randn(B, D, h, w), 2 * torch.randn(B, 7, h, w)
    expected = foundation_distance(loss, features, foundation)
    assert loss(features, foundation).item() == pytest.approx(expected, rel=1e-5)
    exact = loss.double()(features.double(), foundation.double())
    assert exact.item() == pytest.approx(expected, rel=1e-10)


def test_the_projection_is_resized_to_the_grid_of_the_foundation_model() -> None:
    """From 2 cells to 3 bilinearly: the outer two are the two cells, the middle one is their mean."""
    loss, features = trained_projection(), torch.randn(1, D, 1, 2)
    rows = loss.project(nn.functional.gelu(loss.norm(loss.expand(features.movedim(1, -1))))).detach()[0, 0]
    wanted = torch.stack([rows[0], rows.mean(0), rows[1]]).T[None, :, None]
    assert loss(features, wanted).item() == pytest.approx(0, abs=1e-6)


def test_foundation_gradcheck() -> None:
    loss = trained_projection().double()
    features = torch.randn(2, D, 2, 2, dtype=torch.float64, requires_grad=True)
    foundation = torch.randn(2, 7, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = dict(loss.named_parameters())

    def value(features: Tensor, *tensors: Tensor) -> Tensor:
        return torch.func.functional_call(loss, dict(zip(weights, tensors, strict=True)), (features, foundation))

    assert torch.autograd.gradcheck(value, (features, *weights.values()), fast_mode=True)
    loss(features, foundation).backward()
    assert foundation.grad is None


def test_foundation_batches_layouts_and_reductions() -> None:
    loss, features, foundation = trained_projection(), torch.randn(B, D, h, w), torch.randn(B, 7, 3, 3)
    value, singles = loss(features, foundation), trained_projection(reduction="none")(features, foundation)
    torch.testing.assert_close(value, singles.mean())
    torch.testing.assert_close(loss(features[1:2], foundation[1:2]), singles[1])
    last = [each.to(memory_format=torch.channels_last) for each in (features, foundation)]
    torch.testing.assert_close(loss(*last), value)
    none = features[:0].requires_grad_()
    nothing = loss(none, foundation[:0])
    nothing.backward()
    assert nothing.item() == 0
    assert none.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_foundation_distance_is_float32_under_autocast(dtype: torch.dtype) -> None:
    loss, features, foundation = trained_projection(), torch.randn(B, D, h, w), torch.randn(B, 7, h, w)
    with torch.autocast("cpu", dtype):
        value = loss(features.to(dtype), foundation)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(features, foundation), rtol=0.02, atol=1e-3)


# ------------------------------------------------------------------ the frozen network


class Trained(nn.Module):
    """A model that holds its own start."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, D, 1), nn.BatchNorm2d(D), nn.Dropout(0.5))
        self.start = si.FrozenNetwork(self.encoder)


def test_a_frozen_network_neither_trains_nor_changes_its_mode() -> None:
    model, images = Trained(), torch.rand(2, 3, h, w)
    before = model.start(images)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (model.encoder(images) - model.start(images)).sum().backward()
        optimizer.step()
    assert not model.start.network.training
    assert not any(each.requires_grad for each in model.start.network.parameters())
    assert torch.equal(model.start(images), before)
    assert not before.requires_grad
    assert not torch.equal(model.encoder.eval()(images), before)


def test_a_frozen_network_is_in_no_checkpoint_and_no_optimizer() -> None:
    model = Trained()
    assert list(model.state_dict()) == [f"encoder.{name}" for name in model.encoder.state_dict()]
    assert len(list(model.parameters())) == len(list(model.encoder.parameters()))
    model.load_state_dict(model.state_dict(), strict=True)


def test_a_frozen_network_moves_and_is_copied_along() -> None:
    model, images = Trained(), torch.rand(2, 3, h, w, dtype=torch.float64)
    model.double()
    assert model.start(images).dtype == torch.float64
    other = copy.deepcopy(model)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for each in (other, torch.load(stream, weights_only=False)):
        assert torch.equal(each.start(images), model.start(images))
        assert each.start.network is not model.start.network
    assert model.to("meta").start(images.to("meta")).device.type == "meta"


def test_a_network_without_weights_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="network must hold its weights"), torch.device("meta"):
        si.FrozenNetwork(nn.Linear(2, 3))


def test_a_network_that_is_frozen_is_left_as_it_is() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, D, 1), nn.BatchNorm2d(D)).train()
    frozen = si.FrozenNetwork(torch.compile(encoder, backend="eager"))
    assert type(frozen.network) is nn.Sequential
    assert encoder.training
    assert all(each.requires_grad for each in encoder.parameters())
    with pytest.raises(TypeError, match=r"network must be an nn\.Module"):
        si.FrozenNetwork(lambda images: images)  # type: ignore[arg-type]
