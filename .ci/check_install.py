"""Build wheel and sdist, install each in an empty environment, and use the package there as a stranger would."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

WANTED = {"torch", "numpy", "scikit-image", "kornia"}
USE = """
import importlib.metadata, torch, stuffinstance as si
wanted = {line.split(";")[0].strip() for line in importlib.metadata.requires("stuffinstance") if "extra ==" not in line}
names = {requirement.replace(">", " ").split()[0] for requirement in wanted}
assert names == %r, names
assert importlib.resources.files("stuffinstance").joinpath("py.typed").is_file()
sim = si.StuffInstanceMatching(si.CITYSCAPES, feature_dim=8, preset="paper")
features, logits = torch.randn(2, 8, 16, 32, requires_grad=True), torch.randn(2, 19, 16, 32)
sim.update(features, logits.argmax(1), logits)
losses = sim(features + 1, logits)
(losses.stuff + losses.instance).backward()
assert losses.stuff > 0 and losses.instance > 0 and features.grad.abs().sum() > 0
si.restyle_lab(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
print("installed and used:", importlib.metadata.version("stuffinstance"))
"""


def run(*command: str) -> None:
    """Run a command; stop with its own words where it fails."""
    subprocess.run(command, check=True)


def main() -> None:
    """Everything happens in a temporary folder."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        dist, home = Path(folder) / "dist", Path(folder) / "venv"
        run(sys.executable, "-m", "build", "--outdir", str(dist), str(root))
        (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
        venv.create(home, with_pip=True)
        python = str(home / "bin" / "python")
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--constraint", str(root / "constraints.txt"), str(wheel))
        run(python, "-c", "import importlib.resources\n" + USE % WANTED)
        run(*pip, "--force-reinstall", "--no-deps", str(sdist))
        run(python, "-c", "import importlib.resources\n" + USE % WANTED)


if __name__ == "__main__":
    main()
