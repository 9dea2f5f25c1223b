"""Build sdist and wheel, look at what is in them, and use each in an empty environment as a stranger would."""

import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WANTED = {"torch", "numpy", "scikit-image", "kornia"}
USE = """
import importlib.metadata, importlib.resources, re, torch, stuffinstance as si
distribution = importlib.metadata.distribution("stuffinstance")
assert distribution.version == si.__version__, (distribution.version, si.__version__)
wanted = {line.split(";")[0].strip() for line in distribution.requires if "extra ==" not in line}
names = {requirement.replace(">", " ").split()[0] for requirement in wanted}
assert names == %r, names
assert importlib.resources.files("stuffinstance").joinpath("py.typed").is_file()

# What the package index shows: no link that leads nowhere there, and lines that run.
page = distribution.metadata.get_payload() or distribution.metadata["Description"]
links = re.findall(r"\\]\\(([^)]+)\\)", page)
assert links and all("://" in link or link.startswith("#") for link in links), links
(snippet,) = re.findall(r"```python\\n(.*?)```", page, flags=re.DOTALL)
used = {"loss": torch.zeros(()), "source_labels": torch.randint(0, 19, (1, 32, 48))}
for domain in ("source", "target"):
    used[f"{domain}_features"] = torch.randn(1, 2048, 4, 6, requires_grad=True)
    used[f"{domain}_logits"] = torch.randn(1, 19, 4, 6)
exec(snippet, used)
used["loss"].backward()

sim = si.StuffInstanceMatching(si.CITYSCAPES, feature_dim=8, preset="paper")
features, logits = torch.randn(2, 8, 16, 32, requires_grad=True), torch.randn(2, 19, 16, 32)
sim.update(features, logits.argmax(1), logits)
losses = sim(features + 1, logits)
(losses.stuff + losses.instance).backward()
assert losses.stuff > 0 and losses.instance > 0 and features.grad.abs().sum() > 0
si.lab_color_transfer(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
print("installed and used:", distribution.version)
"""


def run(*command: str, folder: Path | None = None) -> None:
    """Run a command; stop with its own words where it fails."""
    subprocess.run(command, check=True, cwd=folder)


def check_sdist(sdist: Path) -> None:
    """Every committed file is in it and nothing else; the version is said in one place."""
    with tarfile.open(sdist) as archive:
        packed = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    committed = set(listed.split("\0")) - {""}
    missing, junk = committed - packed, packed - committed - {"PKG-INFO"}
    if missing or junk:
        sys.exit(f"sdist: wanted the committed files, missing are {sorted(missing)}, too many {sorted(junk)}")


def main() -> None:
    """Everything happens in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        dist, home = Path(folder) / "dist", Path(folder) / "venv"
        run(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT))
        (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
        run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
        check_sdist(sdist)
        venv.create(home, with_pip=True)
        python = str(home / "bin" / "python")
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
        run(python, "-c", USE % WANTED, folder=home)  # not in the repository, whose folders would be found first
        run(*pip, "--force-reinstall", "--no-deps", str(sdist))
        run(python, "-c", USE % WANTED, folder=home)


if __name__ == "__main__":
    main()
