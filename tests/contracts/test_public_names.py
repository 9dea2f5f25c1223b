"""The public names are these; a removed one is a breaking change and must be decided, not happen."""

from __future__ import annotations

import difflib
import inspect
import re
import subprocess
import sys
from importlib import resources
from types import ModuleType

import pytest

import stuffinstance as si
from stuffinstance import plotting
from tests.contracts import error_messages, public_signatures


def parameters(thing: object) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(thing).parameters.items()}


@pytest.mark.parametrize("kind", [public_signatures, error_messages])
def test_signatures_and_messages_are_the_stored_ones(kind: ModuleType) -> None:
    stored = kind.STORED.read_text(encoding="utf-8").splitlines()
    found = getattr(kind, kind.STORED.stem)().splitlines()
    changes = [line for line in difflib.ndiff(stored, found) if line[0] in "-+"]
    assert not changes, "what users see has changed. Where that is meant: make signatures"
    assert not [line for line in stored if " at 0x" in line], "something without a repr of its own"


def test_every_name_is_listed_once_and_is_there() -> None:
    for room in public_signatures.ROOMS:
        assert len(set(room.__all__)) == len(room.__all__)
        for name in room.__all__:
            assert getattr(room, name) is not None


def test_every_drawing_takes_the_callers_axes() -> None:
    for name in plotting.__all__:
        assert parameters(getattr(plotting, name))["ax"] is None


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


def test_drawing_is_there_when_it_is_asked_for() -> None:
    script = (
        "import sys, stuffinstance as si\n"
        "assert 'stuffinstance.plotting' not in sys.modules and 'plotting' in dir(si)\n"
        "assert si.plotting is sys.modules['stuffinstance.plotting'] and 'matplotlib' not in sys.modules\n"
        "assert not hasattr(si, 'drawings')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_importing_is_light_and_silent() -> None:
    """kornia comes with the function that needs it; scikit-image, matplotlib too; nothing random, nothing printed."""
    script = (
        "import sys, torch; before = torch.random.get_rng_state(); threads = torch.get_num_threads()\n"
        "import stuffinstance, stuffinstance.plotting\n"
        "assert torch.equal(before, torch.random.get_rng_state()) and threads == torch.get_num_threads()\n"
        "heavy = {'kornia', 'skimage', 'scipy', 'matplotlib', 'PIL', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
