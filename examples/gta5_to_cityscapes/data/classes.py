"""Class files: the classes that a network predicts, and which ids they have in the label maps of each data set.

A file is YAML: ``names`` in the order of their class ids, which of them are ``stuff`` and which are ``things``, and for
``source`` and ``target`` a table from class to the id, or list of ids, in the label maps. ``ignore`` lists the ids of a
data set that have no class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stuffinstance import CITYSCAPES, LabelSpace

from .image_files import DatasetError

CLASS_FILES = Path(__file__).parents[1] / "classes"
IGNORE = "ignore"
Domain = Literal["source", "target"]


def _as_list(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, int):
        return [value]
    raise ValueError(f"must be an id such as 10 or a list such as [10, 20], got {value!r}")


Ids = Annotated[tuple[Annotated[int, Field(ge=0, le=255, strict=True)], ...], BeforeValidator(_as_list)]


@dataclass(frozen=True)
class LabelTable:
    """Lookup from a raw id to a class id.

    Attributes:
        space: The classes.
        ids: ``(256,)`` uint8, the class id or the space's ``ignore_index``.
        known: ``(256,)`` bool, False for raw ids without a row.
    """

    space: LabelSpace
    ids: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]


class Classes(BaseModel):
    """Content of a class file; ``name`` is the file's. A string is the name of a file in ``classes/``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    names: tuple[str, ...] = Field(min_length=1, max_length=255)
    stuff: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    source: dict[str, Ids]
    target: dict[str, Ids]

    @model_validator(mode="before")
    @classmethod
    def _named_file_is_read(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in class_file_names():  # a checkpoint from elsewhere may hold any path
            known = ", ".join(class_file_names())
            raise ValueError(f"must be the content of a class file or the name of one ({known}), got {value!r}")
        return read_classes(value).model_dump()

    @model_validator(mode="after")
    def _is_consistent(self) -> Classes:
        if IGNORE in self.names:
            raise ValueError(f"names must not include {IGNORE!r}, which is for ids without a class")
        _ = self.space
        for domain, table in (("source", self.source), ("target", self.target)):
            if unknown := sorted(table.keys() - {*self.names, IGNORE}):
                raise ValueError(f"{domain} must have rows of classes in names and of {IGNORE} alone, got {unknown}")
            counts = Counter(each for ids in table.values() for each in ids)
            if twice := sorted(each for each, count in counts.items() if count > 1):
                raise ValueError(f"{domain} must give each id one class, got {twice} more than once")
            if not counts - Counter(table.get(IGNORE, ())):
                raise ValueError(f"{domain} must have an id for at least one class, got none")
        return self

    @property
    def space(self) -> LabelSpace:
        """The classes without their ids; those that Cityscapes names have its colors where all are."""
        colors = dict(zip(CITYSCAPES.names, CITYSCAPES.palette or (), strict=True))
        palette = [colors[name] for name in self.names] if colors.keys() >= set(self.names) else None
        return LabelSpace(self.names, self.stuff, self.things, palette=palette)

    def table(self, domain: Domain) -> LabelTable:
        """The lookup of a data set."""
        space = self.space
        ids = np.full(256, space.ignore_index, dtype=np.uint8)
        known = np.zeros(256, dtype=np.bool_)
        for name, raw in getattr(self, domain).items():
            ids[list(raw)] = space.ignore_index if name == IGNORE else space.names.index(name)
            known[list(raw)] = True
        return LabelTable(space, ids, known)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a repeated key is an error: the last of them would count without any notice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(repeated)} is given more than once", node.start_mark
            )
        return super().construct_mapping(node, deep)


def class_file_names() -> list[str]:
    """Names of the files in ``classes/``."""
    return sorted(path.stem for path in CLASS_FILES.glob("*.yaml"))


def read_classes(file: str | Path) -> Classes:
    """Read a class file, given by its path or by the name of one in ``classes/``.

    Raises:
        DatasetError: If the file is not there, or its content is not what a class file has.
    """
    return _own(str(file)) if str(file) in class_file_names() else _read(Path(file), file)


@cache  # a recipe reads one, and parsing takes longer than all else of a recipe
def _own(name: str) -> Classes:
    return _read(CLASS_FILES / f"{name}.yaml", name)


def _read(path: Path, file: str | Path) -> Classes:
    try:
        content: Any = _UniqueKeys(path.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError as error:
        known = ", ".join(class_file_names())
        raise DatasetError(f"class file {file}: expected a YAML file or one of {known}, found none.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"class file {file}: expected YAML, could not read it ({error}).") from error
    if not isinstance(content, Mapping):
        raise DatasetError(f"class file {file}: expected names, stuff, things, source and target, got {content!r}.")
    try:
        return Classes.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise DatasetError(f"class file {file}: {'; '.join(map(_reason, error.errors()))}.") from error


def _reason(error: Any) -> str:
    """Where a class file is wrong, and why."""
    place, text = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ").rstrip(".")
    if error["type"] == "extra_forbidden":
        return f"{place} must be one of names, stuff, things, source, target"
    if error["type"] == "tuple_type":
        return f"{place} must be a list such as [road, car], got {error['input']!r}"
    return f"{place}: {text}".removeprefix(": ")


def default_class_file(layout: str) -> str:
    """The class file for a source of this layout, where none is given."""
    return "synthia16" if layout == "synthia" else "cityscapes"
