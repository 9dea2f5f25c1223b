"""Digests of the files that a run reads, and which of them have changed since it began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from .atomic_io import DamagedFileError, written_beside

WHOLE_BYTES = 2**16  # files up to this size are read whole, of larger ones as much is read, spread over the file
BLOCKS = 16
BLOCK_BYTES = WHOLE_BYTES // BLOCKS
READERS = 8  # threads: opening a file on a network drive is waiting
KINDS = {"images": "image", "labels": "label map", "transferred": "style-transferred image", "weights": "weights file"}
FIRST_STAGE = "first_stage_weights"  # in an identity: the weights that labeled a second stage's target
START_WEIGHTS = "start_weights"  # in an identity: the files that network.weights and foundation_distance.model name

Key = tuple[str, str, str]  # set, kind, name


@dataclass(frozen=True)
class InputFiles:
    """Files by set (``labeled``, ``target``, ...), kind and name; where they lie is not part of what they are.

    Attributes:
        sets: Path by name, by kind, by set.
        also: What else identifies the run, such as the weights of another.
    """

    sets: Mapping[str, Mapping[str, Mapping[str, Path]]]
    also: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[Key, str]:
        """Digests of all files."""
        files = dict(self._paths())
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(files, pool.map(digest_of, files, files.values()), strict=True))

    def identity(self) -> dict[str, Any]:
        """Number of images and a digest of each kind of files, by set: other content, other digest."""
        identity: dict[str, Any] = {}
        for set_name, kinds in self.sets.items():
            together = {kind: self._together(set_name, kind, files) for kind, files in kinds.items()}
            if "images" in kinds:
                identity[set_name] = {"count": len(kinds["images"]), **together}
            else:  # one file, the start weights
                identity[set_name] = "+".join(together.values())
        return {**identity, **self.also}

    def _together(self, set_name: str, kind: str, names: Iterable[str]) -> str:
        lines = (f"{name}\0{self.digests[set_name, kind, name]}\n" for name in sorted(names))
        return hashlib.blake2b("".join(lines).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def named_in(self, text: str) -> list[tuple[Key, Path]]:
        """The files whose path, followed by a colon, is in a message."""
        return [(key, path) for key, path in self._paths() if f"{path}:" in text]

    def _paths(self) -> Iterable[tuple[Key, Path]]:
        for set_name, kinds in self.sets.items():
            for kind, files in kinds.items():
                for name, path in files.items():
                    yield (set_name, kind, name), path


def digest_of(key: Key, path: Path) -> str:
    """Digest of every byte of a weights file, and a :func:`sampled_digest` of a data set's files."""
    if key[1] != "weights":
        return sampled_digest(path)
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def sampled_digest(path: Path) -> str:
    """Digest of a file's size and 64 KiB of its content: all of it, or 16 blocks with the first and the last.

    The last bytes of a PNG are a checksum of all its pixels. A process reads a file once, as long as its times stay.
    """
    state = path.stat()
    return _sampled(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@cache
def _sampled(path: Path, size: int, *times: int) -> str:
    digest = hashlib.blake2b(f"{size}\n".encode(), digest_size=16)
    with path.open("rb", buffering=0) as file:
        if size <= WHOLE_BYTES:
            digest.update(file.read())
        else:
            for block in range(BLOCKS):
                file.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def changes(kept: Mapping[Key, str | None], now: InputFiles) -> list[str]:
    """Files that differ from the ``kept`` digests: one line for each set and kind, with an example.

    A file whose digest is None could not be decoded, so it may be another now: nothing was learned from it.
    """
    found = []
    for set_name, kinds in now.sets.items():
        for kind, files in kinds.items():
            before = {name: digest for (of, what, name), digest in kept.items() if (of, what) == (set_name, kind)}
            digests = {name: now.digests[set_name, kind, name] for name in files}
            other = {
                "have changed": [name for name in files if before.get(name) not in (None, digests[name])],
                "are new": files.keys() - before.keys(),
                "are gone": before.keys() - files.keys(),
            }
            for what, names in other.items():
                if names:
                    example = min(names)
                    place = f" ({files[example]})" if example in files else ""
                    found.append(
                        f"data.{set_name}.{kind}: {len(names)} of {len(before.keys() | files.keys())} "
                        f"{KINDS.get(kind, kind)}s {what}, such as {example}{place}"
                    )
    return found


def write_digests(path: Path, digests: Mapping[Key, str | None]) -> None:
    """One JSON list a line: set, kind, name, digest; None where the file could not be decoded."""
    with written_beside(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps([*key, digest]) + "\n" for key, digest in digests.items())


def read_digests(path: Path) -> dict[Key, str | None]:
    """What :func:`write_digests` wrote; empty where the file is absent.

    Raises:
        DamagedFileError: If there is something else in it.
    """
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {(set_name, kind, name): digest for set_name, kind, name, digest in lines}
    except (ValueError, TypeError) as error:
        raise DamagedFileError(
            f"{path}: expected set, kind, name and digest of a file in each line, could not read it ({error}). Delete "
            "the file."
        ) from error
