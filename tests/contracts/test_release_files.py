"""The files around the code say what is there: the workflow, the lower bounds, the guides for contributors."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
GUIDES = ("CONTRIBUTING.md", "SECURITY.md")


def test_the_workflow_runs_what_the_makefile_has() -> None:
    commands = [re.sub(r"\$\{\{.*?\}\}", "VALUE", step["run"]).split() for step in STEPS if "run" in step]
    assert {"lint", "smoke", "test", "check-install", "docs-check", "test-oldest", "test-trainers"} == {
        target for _, target, *_ in commands
    }
    for make, target, *settings in commands:
        assert make == "make"
        assert target in TARGETS
        assert settings in ([], ["CONSTRAINTS=VALUE"])


def test_help_lists_every_command_and_what_it_does() -> None:
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    commands = dict(re.findall(r"^make ([a-z-]+) +(\S.*)$", listed, flags=re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(commands) == set(phony.split()) == TARGETS
    assert len(commands) == len(listed.splitlines())
    assert len(set(commands.values())) == len(commands)


def test_the_workflow_trusts_little() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {step["uses"].partition("@")[0] for step in STEPS if "uses" in step} == {
        "actions/checkout",
        "actions/setup-python",
    }
    assert all("timeout-minutes" in job and "permissions" not in job for job in WORKFLOW["jobs"].values())


def test_the_lower_bounds_are_the_versions_that_are_run() -> None:
    lines = (ROOT / "requirements-oldest.txt").read_text(encoding="utf-8").splitlines()
    run = [Requirement(line.partition("#")[0]) for line in lines if not line.startswith("#")]
    oldest = {requirement.name: str(requirement.specifier).removeprefix("==") for requirement in run}
    (listed,) = re.findall(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    for requirement in map(Requirement, re.findall(r'"([^"]+)"', listed)):
        bound = str(requirement.specifier).removeprefix(">=")
        assert oldest[requirement.name] in (bound, f"{bound}.0")


@pytest.mark.parametrize("name", GUIDES)
def test_files_that_a_guide_names_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = [word for word in re.findall(r"`([\w./-]+)`", text) if "/" in word or word.endswith((".md", ".py", ".txt"))]
    paths += [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_commands_that_the_guide_names_exist() -> None:
    named = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert named
    assert named <= TARGETS
