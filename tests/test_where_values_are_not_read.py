"""What must hold on a GPU, where values are not looked at: tried on a CPU by taking the accelerator's branches."""

from __future__ import annotations

import pytest
import torch

import stuffinstance as si
from stuffinstance.metrics import mean_iou
from stuffinstance.pooling.backends import torch_sums
from stuffinstance.pseudo_labels import threshold as confidences
from stuffinstance.pseudo_labels import threshold as threshold_rule


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pool as on a GPU."""
    monkeypatch.setattr(torch_sums, "added_sums", torch_sums.multiplied_sums)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check as on a GPU."""
    for module in (confidences, threshold_rule, mean_iou):
        if hasattr(module, "may_read"):
            monkeypatch.setattr(module, "may_read", lambda *_: False)
    monkeypatch.setattr(mean_iou, "check_class_ids", lambda *_: None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_both_ways_of_adding_pixels_up_agree(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    features = torch.randn(2, 5, 9, 11, dtype=torch.float64).to(dtype)
    regions = torch.randint(0, 7, (2, 9, 11))
    one = si.region_mean(features, regions, 8)
    monkeypatch.setattr(torch_sums, "added_sums", torch_sums.multiplied_sums)
    other = si.region_mean(features, regions, 8)
    assert other.dtype == one.dtype
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("multiplied")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_reach_the_product(dtype: torch.dtype) -> None:
    features = torch.full((1, 2, 64, 128), 12.0)  # the sum over a region is beyond what fp16 holds
    regions = torch.ones(1, 64, 128, dtype=torch.int64)
    with torch.autocast("cpu", dtype):
        rows = si.region_mean(features.to(dtype), regions, 1)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, torch.full((1, 1, 2), 12.0))


@pytest.mark.usefixtures("multiplied")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_pixel_spoils_its_own_region_alone(value: float) -> None:
    features = torch.ones(1, 1, 2, 3)
    features[0, 0, 0, 0] = value
    regions = torch.tensor([[[1, 1, 2], [2, 3, 0]]])
    rows = si.region_mean(features, regions, 3)[0, :, 0]
    assert not rows[0].isfinite()
    assert rows[1:].tolist() == [1.0, 1.0]
    regions[0, 0, 0] = 0
    assert si.region_mean(features, regions, 3).isfinite().all()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("strange", [20, 19, -1, 10**6])
def test_a_prediction_outside_the_classes_is_a_miss(strange: int) -> None:
    score = si.MeanIoU(19)
    score.update(torch.tensor([[[strange, 0]]]), torch.tensor([[[0, 0]]]))
    assert score.compute().mean == 0.5
    assert score.confusion.sum() == 1
    assert score.unclassed[0] == 1


@pytest.mark.usefixtures("unread")
def test_a_nan_confidence_is_not_counted() -> None:
    probabilities = torch.tensor([0.8, 0.2]).view(1, 2, 1, 1).repeat(1, 1, 1, 5)
    probabilities[..., 2:] = float("nan")
    threshold = si.ClassBalancedThreshold(2)
    threshold.update(probabilities)
    assert threshold.counts().tolist() == [2, 0]
    assert threshold.compute()[0] == pytest.approx(0.8, abs=1 / threshold.bins)


@pytest.mark.parametrize(("dtype", "value", "rows"), [(torch.float64, 1e300, 0), (torch.float32, 1e5, 1)])
def test_what_overflows_in_the_banks_own_precision_stays_out(dtype: torch.dtype, value: float, rows: int) -> None:
    bank = si.StuffBank((0,), 1, 2).half()  # its rows stay float32, where 1e5 is a number
    bank.update(torch.full((1, 1, 2, 2), value, dtype=dtype), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert bank.written.tolist() == [rows]
    assert bank.features.isfinite().all()


@pytest.mark.parametrize("bins", [1000, 65536, 7])
def test_thresholds_are_never_above_the_exact_ones(bins: int) -> None:
    below_edges = torch.nextafter(torch.arange(bins // 2 + 1, bins) / bins, torch.tensor(0.0))[:400]
    for confidence in below_edges.tolist():
        probabilities = torch.tensor([confidence, 1 - confidence]).view(1, 2, 1, 1)
        threshold = si.ClassBalancedThreshold(2, cap=1.0, bins=bins)
        threshold.update(probabilities)
        assert threshold.pseudo_labels(probabilities).item() == 0


def test_strided_labels_keep_torchs_rules() -> None:
    labels = torch.randint(0, 19, (2, 12, 24))[:, ::2, ::3].transpose(1, 2)
    torch.library.opcheck(torch.ops.stuffinstance.class_positions, (labels, [3, 1, 7]))
    assert torch.equal(
        si.stuff_regions(labels, (3, 1)).region_map, si.stuff_regions(labels.contiguous(), (3, 1)).region_map
    )


@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda: si.StuffMatchingLoss(si.InstanceBank((1,), 2)), TypeError, "bank must be a StuffBank, got InstanceBank"),
    (lambda: si.InstanceMatchingLoss(si.StuffBank((1,), 2)), TypeError, "bank must be an InstanceBank, got StuffBank"),
    (lambda: si.StuffMatchingLoss(si.StuffBank((1,), 2), 3), TypeError, "distance must be a name or a callable.*3"),
    (lambda: si.StuffBank((0.9, 1.7), 4), TypeError, "classes must be .*integer"),
    (lambda: si.StuffBank("12", 4), TypeError, "classes must be .*integer"),
    (lambda: si.LabelSpace(stuff=(0.9,)), TypeError, "stuff.* must hold whole numbers.*0.9"),
    (lambda: si.LabelSpace(names=("road",), stuff=0), TypeError, r"stuff must be a sequence.*Pass \(0,\)"),
    (lambda: si.StuffInstanceMatching(4, 8), TypeError, "space must be a LabelSpace .*got int 4"),
    (lambda: si.lab_color_transfer(torch.full((1, 3, 4, 4), 2e2), torch.zeros(1, 3, 4, 4)), ValueError, "0..1"),
    (lambda: si.MeanIoU(2).update([[0]], torch.zeros(1, 1, 1).long()), TypeError, "preds must be .*list"),
])  # fmt: skip
def test_arguments_of_the_wrong_kind_are_named(build, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_head_of_another_label_space_raises_and_nothing_changes() -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, 4, classifier=torch.nn.Linear(4, 1))
    logits = torch.nn.functional.one_hot(torch.full((1, 3, 3), 10), 19).permute(0, 3, 1, 2).float()
    with pytest.raises(ValueError, match=r"classifier must give logits .*got K = 1"):
        sim.update(torch.randn(1, 4, 3, 3), torch.full((1, 3, 3), 10), logits)
    assert not sim.stuff_bank.written.any()


def test_numpy_integers_are_integers() -> None:
    numpy = pytest.importorskip("numpy")
    assert si.StuffBank((numpy.int64(1),), 4, capacity=numpy.int64(5)).features.shape == (1, 5, 4)


def test_validation_steps_aside_in_compiled_code() -> None:
    sim = si.StuffInstanceMatching(si.CITYSCAPES, 4, validate_args=True)
    compiled = torch.compile(sim, fullgraph=True, backend="aot_eager")
    assert compiled(torch.randn(1, 4, 3, 5), torch.randn(1, 19, 3, 5)).stuff == 0
