"""Digests of the files that a run reads, and which of them have changed since it began."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from .atomic_io import written_beside

WHOLE_BYTES = 2**16  # files up to this size are read whole, of larger ones as much is read, spread over the file
BLOCKS = 16
BLOCK_BYTES = WHOLE_BYTES // BLOCKS
READERS = 8  # threads: opening a file on a network drive is waiting
SETTLED_NS = 2 * 10**9  # FAT counts time in 2 s: what was written later than this before it was read may change unseen
KINDS = {"images": "image", "labels": "label map", "transferred": "style-transferred image", "weights": "weights file"}
FIRST_STAGE = "first_stage_weights"  # in an identity: the weights that labeled a second stage's target
START_WEIGHTS = "start_weights"  # in an identity: the file that network.weights names

Key = tuple[str, str, str]  # set, kind, name


class FileDigest(NamedTuple):
    """Digest of one file, with its size and times: where these are unchanged the content is not read again.

    ``digest`` is None for a file that could not be decoded, which therefore may be replaced.
    """

    bytes: int
    modified_ns: int
    changed_ns: int  # on POSIX of the inode, which copying and restoring an old time of modification change
    digest: str | None


@dataclass(frozen=True)
class InputFiles:
    """Files by set (``labeled``, ``target``, ...), kind and name; where they lie is not part of what they are.

    Attributes:
        sets: Path by name, by kind, by set.
        known: Digests of an earlier look at the same files, which spare reading those that have not changed.
        also: What else identifies the run, such as the weights of another.
    """

    sets: Mapping[str, Mapping[str, Mapping[str, Path]]]
    known: Mapping[Key, FileDigest] = field(default_factory=dict)
    also: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[Key, FileDigest]:
        """Digests of all files; only files that have changed since ``known`` are read."""
        files = list(self._paths())
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._digest, files)
            return {key: digest for (key, _), digest in zip(files, found, strict=True)}

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
        lines = (f"{name}\0{self.digests[set_name, kind, name].digest}\n" for name in sorted(names))
        return hashlib.blake2b("".join(lines).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def named_in(self, text: str) -> list[tuple[Key, Path]]:
        """The files whose path, followed by a colon, is in a message."""
        return [(key, path) for key, path in self._paths() if f"{path}:" in text]

    def _paths(self) -> Iterable[tuple[Key, Path]]:
        for set_name, kinds in self.sets.items():
            for kind, files in kinds.items():
                for name, path in files.items():
                    yield (set_name, kind, name), path

    def _digest(self, file: tuple[Key, Path]) -> FileDigest:
        key, path = file
        now = time.time_ns()
        state = path.stat()
        known = self.known.get(key)
        if known is not None and known[:3] == (state.st_size, state.st_mtime_ns, state.st_ctime_ns):
            return known
        digest = digest_of(key, path)
        settled = max(state.st_mtime_ns, state.st_ctime_ns) < now - SETTLED_NS
        return FileDigest(state.st_size, state.st_mtime_ns if settled else 0, state.st_ctime_ns, digest)


def digest_of(key: Key, path: Path) -> str:
    """Digest of every byte of a weights file, and a :func:`sampled_digest` of a data set's files."""
    return (whole_digest if key[1] == "weights" else sampled_digest)(path)


def sampled_digest(path: Path) -> str:
    """Digest of a file's size and 64 KiB of its content: all of it, or 16 blocks with the first and the last.

    The last bytes of a PNG are a checksum of all its pixels, those of a zip file one of each of its parts.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(f"{size}\n".encode(), digest_size=16)
        if size <= WHOLE_BYTES:
            digest.update(file.read())
        else:
            for block in range(BLOCKS):
                file.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def whole_digest(path: Path) -> str:
    """Digest of every byte of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def changes(kept: Mapping[Key, FileDigest], now: InputFiles) -> list[str]:
    """Files that differ between two looks: one line for each set and kind, with an example.

    A file that could not be decoded may be another now: nothing was learned from it.
    """
    found = []
    for set_name, kinds in now.sets.items():
        for kind, files in kinds.items():
            before = {name: each for (of, what, name), each in kept.items() if (of, what) == (set_name, kind)}
            common = files.keys() & before.keys()
            other = {
                "have changed": [name for name in common if _differs(before[name], now.digests[set_name, kind, name])],
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


def _differs(before: FileDigest, now: FileDigest) -> bool:
    return before.digest is not None and before.digest != now.digest


def write_digests(path: Path, digests: Mapping[Key, FileDigest]) -> None:
    """One JSON list a line: set, kind, name, then a :class:`FileDigest`."""
    with written_beside(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps([*key, *digest]) + "\n" for key, digest in digests.items())


def read_digests(path: Path) -> dict[Key, FileDigest]:
    """What :func:`write_digests` wrote; lines that cannot be read are skipped, and those files are read again."""
    found: dict[Key, FileDigest] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            set_name, kind, name, size, modified, changed, digest = json.loads(line)
            key = (str(set_name), str(kind), str(name))
            found[key] = FileDigest(int(size), int(modified), int(changed), None if digest is None else str(digest))
        except (ValueError, TypeError, RecursionError):
            continue
    return found
