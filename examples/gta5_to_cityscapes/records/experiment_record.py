"""Which experiment of the paper a folder holds, so that its page can be written before it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..recipes import PAPER_EXPERIMENTS, PaperExperiment, Variant
from .run_folder import RunFolderError
from .written_files import DamagedFileError, read_json, write_json

FILE = "experiment.json"


@dataclass(frozen=True)
class ExperimentRecord:
    """What was asked for; seeds may be added later, the rest stays."""

    name: str
    size: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()  # as --set takes them
    generated: bool = False  # whether the pictures are those of the generated city
    source_list: str = ""  # name of the file that chooses the pictures; their own digest is kept with each run
    target_list: str = ""

    @property
    def paper(self) -> PaperExperiment:
        """The experiment itself."""
        return PAPER_EXPERIMENTS[self.name]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Its rows in this size."""
        return self.paper.variants(self.size, self.settings)

    @property
    def list_options(self) -> list[str]:
        """The lists as options of the command."""
        lists = {"--source-list": self.source_list, "--target-list": self.target_list}
        return [f"{option} {name}" for option, name in lists.items() if name]

    def claim(self, folder: Path) -> None:
        """Take the folder for this experiment, or refuse as :meth:`check` does."""
        kept = self.check(folder)
        seeds = sorted({*self.seeds, *(kept.seeds if kept else ())})
        write_json(folder / FILE, {**vars(self), "seeds": seeds, "settings": list(self.settings)})

    def check(self, folder: Path) -> ExperimentRecord | None:
        """What the folder holds of this experiment already; another one is refused."""
        kept = read_record(folder)
        if kept is not None and kept._identity() != self._identity():
            raise RunFolderError(
                f"{folder / FILE}: expected {self._said()}, the folder holds {kept._said()}. "
                "Choose another --out, or ask for the same."
            )
        return kept

    def _identity(self) -> tuple[object, ...]:
        return self.name, self.size, self.settings, self.source_list, self.target_list

    def _said(self) -> str:
        asked = [*self.settings, *self.list_options]
        return " ".join([f"{self.name} in size {self.size}", *(f"with {each}" for each in asked)])


def read_record(folder: Path) -> ExperimentRecord | None:
    """The experiment that a folder holds; None where it holds none of the paper's."""
    file = folder / FILE
    if not file.is_file():
        return None
    content = read_json(file)
    try:
        record = ExperimentRecord(
            content["name"],
            content["size"],
            tuple(content["seeds"]),
            tuple(content["settings"]),
            generated=bool(content.get("generated")),
            source_list=str(content.get("source_list", "")),
            target_list=str(content.get("target_list", "")),
        )
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"{file}: expected name, size, seeds and settings, got {', '.join(content)}.") from error
    if record.name not in PAPER_EXPERIMENTS:
        raise DamagedFileError(
            f"{file}: expected one of {', '.join(PAPER_EXPERIMENTS)}, got {record.name!r}. Delete the file."
        )
    return record
