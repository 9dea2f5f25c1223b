"""The public names are these; a removed one is a breaking change and must be decided, not happen."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import resources

import stuffinstance as si
from stuffinstance import drawing

NAMES = {
    "AdaptiveThreshold",
    "AnchorDistanceLoss",
    "BackendUnavailableError",
    "CITYSCAPES",
    "CategoryAnchors",
    "ClassBalancedThreshold",
    "ClassCenterDistance",
    "EntropyLoss",
    "FineGrainedAdversarialLoss",
    "FineGrainedDiscriminator",
    "InstanceBank",
    "InstanceMatchingLoss",
    "IoU",
    "LabelSpace",
    "MatchingLosses",
    "MaxSquareLoss",
    "MeanIoU",
    "MeanTeacher",
    "MixedDomains",
    "OutputAdversarialLoss",
    "OutputDiscriminator",
    "PortionThreshold",
    "PredictionEntropy",
    "Regions",
    "SYNTHIA_13",
    "SYNTHIA_16",
    "SoftNeighbourhoodDensity",
    "StuffBank",
    "StuffInstanceMatching",
    "StuffMatchingLoss",
    "SymmetricConsistency",
    "SymmetricPrediction",
    "ThresholdRule",
    "class_center_distance",
    "class_mix",
    "confident_share",
    "connected_components",
    "correct_labels",
    "entropy_map",
    "instance_regions",
    "mask_blocks",
    "merge_pseudo_labels",
    "mrkld_regulariser",
    "region_mean",
    "resize_labels",
    "restyle_fourier",
    "restyle_lab",
    "soft_cross_entropy",
    "soft_labels",
    "stuff_regions",
    "weighted_cross_entropy",
}


DRAWING_NAMES = {
    "draw_bank_fill",
    "draw_bank_rows",
    "draw_confidences",
    "draw_iou",
    "draw_kept_shares",
    "draw_label_map",
    "draw_matches",
    "draw_regions",
}


def parameters(thing: object) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(thing).parameters.items()}  # type: ignore[arg-type]


def test_the_names_are_these() -> None:
    assert set(si.__all__) == NAMES
    assert len(si.__all__) == len(NAMES)
    for name in NAMES:
        assert getattr(si, name) is not None


def test_the_names_of_drawing_are_these() -> None:
    assert set(drawing.__all__) == DRAWING_NAMES
    for name in DRAWING_NAMES:
        assert parameters(getattr(drawing, name))["ax"] is None


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([.-]?(dev|a|b|rc)\d+)?", si.__version__)


def test_signatures_of_the_contract() -> None:
    empty = inspect.Parameter.empty
    facade = parameters(si.StuffInstanceMatching)
    expected = {
        "space": empty, "feature_dim": empty, "preset": "code", "capacity": 50, "max_instances": 10,
        "classifier": None, "sync": "auto",
    }  # fmt: skip
    assert expected.items() <= facade.items()
    assert list(facade)[:2] == ["space", "feature_dim"]
    assert list(parameters(si.StuffInstanceMatching.update))[1:] == [
        "source_features",
        "source_labels",
        "source_logits",
    ]
    assert list(parameters(si.StuffInstanceMatching.forward))[1:] == [
        "target_features",
        "target_logits",
        "pseudo_labels",
    ]
    assert list(parameters(si.StuffBank))[:3] == ["classes", "feature_dim", "capacity"]
    assert parameters(si.StuffBank)["capacity"] == 50
    bank = parameters(si.InstanceBank)
    assert {"capacity": 500, "max_instances": 10, "connectivity": 8}.items() <= bank.items()
    for kind in (si.StuffBank, si.InstanceBank):
        assert list(parameters(kind.update))[1:4] == ["features", "labels", "classifier"]
    for loss in (si.StuffMatchingLoss, si.InstanceMatchingLoss):
        assert parameters(loss)["distance"] == "l1_mean"
        assert list(parameters(loss.forward))[1:] == ["features", "labels"]
    components = {"labels": empty, "classes": None, "connectivity": 8, "ignore_index": 255, "backend": "auto"}
    assert parameters(si.connected_components) == components
    assert parameters(si.instance_regions)["max_regions"] == 10
    threshold = parameters(si.ClassBalancedThreshold)
    assert {"quantile": 0.5, "cap": 0.9}.items() <= threshold.items()
    assert list(parameters(si.MeanIoU))[:2] == ["num_classes", "ignore_index"]
    assert list(parameters(si.LabelSpace))[:5] == ["names", "stuff", "things", "ignore_index", "palette"]


def test_types_are_published() -> None:
    assert resources.files("stuffinstance").joinpath("py.typed").is_file()


def test_importing_is_light_and_silent() -> None:
    """kornia comes with the function that needs it; scikit-image, matplotlib too; nothing random, nothing printed."""
    script = (
        "import sys, torch; before = torch.random.get_rng_state(); threads = torch.get_num_threads()\n"
        "import stuffinstance, stuffinstance.drawing\n"
        "assert torch.equal(before, torch.random.get_rng_state()) and threads == torch.get_num_threads()\n"
        "heavy = {'kornia', 'skimage', 'scipy', 'matplotlib', 'PIL', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
