"""What an artifact consists of: its manifest, and whether its files are still what that says.

    {"files": {"train.jsonl": 123}, "sha256": {"train.jsonl": "ab..."}}

The manifest is written last and has each file's size in bytes and SHA-256. Those of flywheel 0.1.0 have sizes
alone, and are still read.

**Bytes are hashed once a machine**, at 1.3 GB a second of CPU. That an artifact was whole is then kept in the
user's cache (XDG_CACHE_HOME or ~/.cache), never in the artifact root: a hash over the manifest, and over
device, inode, size and times of change of each file. Any write changes a file's ctime, which nobody but root
can set, so an artifact is hashed anew after whatever touched it.

What that finds: files that are missing, cut short, empty or of other bytes, whoever did it, where the
manifest was left alone. What it does not find: one who may write a manifest can write its hashes to suit;
who keeps an artifact's `digest` elsewhere, as a champion does, finds that, too. And a disk that loses bits
without a write is found by the machines that have not read the artifact yet.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from flywheel.common.errors import ArtifactError, OutsideError
from flywheel.common.inside import files_below, names_of, open_file

# Present in a finished artifact only.
MANIFEST = "manifest.json"

# Nanoseconds; times of files go by the kernel's ticks, of 10 ms at most.
_TICK = 20_000_000


@dataclass(frozen=True)
class Manifest:
    """The files of an artifact.

    Attributes:
        files: sizes in bytes, by path in the artifact.
        sha256: of each file, as 64 hex digits; none in a manifest of flywheel 0.1.0.
    """

    files: dict[str, int]
    sha256: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Return the manifest that a folder's files have now; a manifest in it is none of them."""
        names = [name for name in files_below(str(folder), "") if name != MANIFEST]
        sizes = {name: (folder / name).stat().st_size for name in names}
        return cls(sizes, {name: _sha256(str(folder), name) for name in names})

    def hashed(self, folder: Path) -> Manifest:
        """Return it with the hashes that its files have now, if it has none."""
        if self.sha256:
            return self
        return Manifest(self.files, {name: _sha256(str(folder), name) for name in self.files})

    @classmethod
    def parse(cls, data: bytes, said: str) -> Manifest:
        """Read a manifest.

        Args:
            said: what to call it in an error.

        Raises:
            ArtifactError: it is none.
        """
        try:
            read: Any = orjson.loads(data)
            files, hashes = read["files"], read.get("sha256", {})
            is_right = all(isinstance(size, int) and size >= 0 for size in files.values()) and (
                not hashes or hashes.keys() == files.keys()
            )
            if not is_right or not all(map(names_of, files)):
                raise ValueError("expected files with their sizes and hashes")
        except OutsideError:
            raise ArtifactError(f"{said}: names a file outside of the artifact") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{said}: damaged: {error}") from None
        return cls(files, hashes)

    def json(self) -> bytes:
        """Return it as it is written."""
        return orjson.dumps({"files": self.files, "sha256": self.sha256}, option=orjson.OPT_INDENT_2)

    @property
    def digest(self) -> str:
        """One hash for all files, names and bytes, as 64 hex digits; empty where their hashes are unknown."""
        if not self.sha256:
            return ""
        return hashlib.sha256(orjson.dumps(self.sha256, option=orjson.OPT_SORT_KEYS)).hexdigest()


def verify(base: str, path: str, cache: Path) -> Manifest:
    """Return the manifest of an artifact in a folder of this machine, whose files are as it says.

    Args:
        base: a folder; `path` is that of the artifact below it, on which no link is followed.
        cache: of this machine, out of the artifact root.

    Raises:
        FileNotFoundError: there is no manifest.
        ArtifactError: a file is missing or damaged; the message names it.
    """
    with open_file(base, f"{path}/{MANIFEST}") as file:
        data = file.read()
    manifest = Manifest.parse(data, f"{base}/{path}/{MANIFEST}")
    stamps = [_stamp(base, f"{path}/{name}", size) for name, size in manifest.files.items()]
    if not manifest.sha256 or _kept(base, path, cache) == _known(data, stamps):
        return manifest
    for name, expected in manifest.sha256.items():
        found = _sha256(base, f"{path}/{name}")
        if found != expected:
            raise ArtifactError(
                f"{base}/{path}/{name}: damaged: its SHA-256 is {found[:12]}..., expected {expected[:12]}..."
            )
    _keep(base, path, cache, data, stamps)
    return manifest


def remember(base: str, path: str, cache: Path) -> None:
    """Keep that an artifact which was hashed a moment ago is whole."""
    with suppress(OSError, ArtifactError):
        with open_file(base, f"{path}/{MANIFEST}") as file:
            data = file.read()
        files = Manifest.parse(data, "").files
        _keep(base, path, cache, data, [_stamp(base, f"{path}/{name}", size) for name, size in files.items()])


def forget(base: str, path: str, cache: Path) -> None:
    """Drop what is kept of an artifact that is removed."""
    with suppress(OSError):
        _record(base, path, cache).unlink()


def _sha256(base: str, path: str) -> str:
    with open_file(base, path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(base: str, path: str, size: int) -> tuple[int, ...]:
    """Return what changes when a file is written: device, inode, size, times of change in nanoseconds."""
    try:
        with open_file(base, path) as file:
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        raise ArtifactError(f"{base}/{path}: missing") from None
    except OSError as error:
        raise ArtifactError(f"{base}/{path}: damaged: {error}") from None
    if found.st_size != size:
        raise ArtifactError(f"{base}/{path}: damaged: {found.st_size} bytes, expected {size}")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _known(manifest: bytes, stamps: list[tuple[int, ...]]) -> str:
    return hashlib.sha256(manifest + orjson.dumps(stamps)).hexdigest()


def _record(base: str, path: str, cache: Path) -> Path:
    return cache / "verified" / hashlib.sha256(os.path.abspath(f"{base}/{path}").encode()).hexdigest()[:32]


def _kept(base: str, path: str, cache: Path) -> str:
    try:
        return _record(base, path, cache).read_text()
    except OSError:
        return ""


def _keep(base: str, path: str, cache: Path, manifest: bytes, stamps: list[tuple[int, ...]]) -> None:
    # A write within the same tick of the clock would leave the times as they are.
    if any(changed > time.time_ns() - _TICK for *_, changed in stamps):
        return
    record = _record(base, path, cache)
    with suppress(OSError):  # without a cache, bytes are hashed each time
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = record.with_name(f".{uuid.uuid4().hex}")
        aside.write_text(_known(manifest, stamps))
        os.replace(aside, record)
