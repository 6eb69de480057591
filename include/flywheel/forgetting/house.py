"""What the places are found by: the artifact root's runs and champions, and which artifacts they name."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, StoreError
from flywheel.config import Config, resolve_path
from flywheel.promotion.champion import champion_folder
from flywheel.runs.run import CANCELLED_FILE
from flywheel.stores import RecordStore, open_store
from flywheel.workloads.records import Record

# As flywheel.artifacts.root.key_of makes them; longer digests are none.
KEY = re.compile(rb"(?<![0-9a-f])[0-9a-f]{20}(?![0-9a-f])")
# A run without a result in whose folder nothing has changed for so long is no longer under way.
SILENT_SECONDS = 3600.0
# Files in which artifacts are named are small; a larger one holds records.
_MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class File:
    """A file of the artifact root. Attributes: path: relative to the root; changed: unix seconds."""

    path: str
    bytes: int
    changed: float


@dataclass(frozen=True)
class RunFolder:
    """A run, by its folder.

    Attributes:
        name: of the folder.
        plan: as it was written; empty where there is none that can be read.
        keys: of the artifacts that its files name.
    """

    name: str
    plan: dict[str, Any]
    files: tuple[File, ...]
    keys: frozenset[str] = field(repr=False)

    @property
    def path(self) -> str:
        """The folder, relative to the artifact root."""
        return f"runs/{self.name}"

    @property
    def run_id(self) -> str:
        """Its id; the folder's name where it has no plan."""
        return str(self.plan.get("run_id") or self.name)

    @property
    def workload_id(self) -> str:
        """Of its plan; empty where it has none."""
        return str(self.plan.get("workload_id") or "")

    @property
    def client_id(self) -> str:
        """Of its plan; empty where it has none."""
        return str(self.plan.get("client_id") or "")

    @property
    def names(self) -> frozenset[str]:
        """The paths of its files."""
        return frozenset(file.path for file in self.files)

    @property
    def bytes(self) -> int:
        """That its files take."""
        return sum(file.bytes for file in self.files)

    @property
    def changed(self) -> float:
        """When a file of it was written last, in unix seconds."""
        return max((file.changed for file in self.files), default=0.0)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, as its files say: one that failed is over when nothing changes any more."""
        return bool(self.names & {f"{self.path}/stages/promote.json", f"{self.path}/{CANCELLED_FILE}"})

    def is_silent(self, now: float | None = None) -> bool:
        """Return whether it has ended, or nothing has changed in it for long."""
        return self.is_over or (now or time.time()) - self.changed > SILENT_SECONDS


class House:
    """A configuration, its artifact root, and what is in it; read once.

    Args:
        config: today's.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = ArtifactRoot(config.artifacts.root)
        self.remembered: dict[str, object] = {}  # what places have looked up that others need, too

    def files(self, path: str) -> list[File]:
        """Return the files below a path of the root."""
        if self.root.is_folder:
            found = []
            for name in self.root.files_below(path):
                with suppress(FileNotFoundError):  # another process has removed it meanwhile
                    info = os.lstat(f"{self.root.url}/{name}")
                    found.append(File(name, info.st_size, info.st_mtime))
            return found
        remote = f"{self.root.fs._strip_protocol(self.root.url).strip('/')}/"
        listed = self.root.fs.find(f"{self.root.url}/{path}", detail=True)
        return [
            File(name.rpartition(remote)[2], int(info.get("size") or 0), _changed(info))
            for name, info in sorted(listed.items())
        ]

    @cached_property
    def runs(self) -> list[RunFolder]:
        """All runs, those without a plan too."""
        found = []
        for name in self.root.list("runs"):
            files = self.files(f"runs/{name}")
            try:
                plan = self.root.read_json(f"runs/{name}/plan.json")
            except ArtifactError:
                plan = {}
            keys = self.keys_in(file for file in files if file.path.endswith(".json"))
            found.append(RunFolder(name, plan if isinstance(plan, dict) else {}, tuple(files), keys))
        return found

    def keys_in(self, files: Iterable[File]) -> frozenset[str]:
        """Return the keys of artifacts that files name."""
        keys: set[str] = set()
        for file in files:
            if file.bytes <= _MOST_BYTES:
                keys |= {key.decode() for key in KEY.findall(self.read(file.path))}
        return frozenset(keys)

    def read(self, path: str) -> bytes:
        """Return a file's bytes; nothing where it is not there any more."""
        try:
            return self.root.read_bytes(path)
        except (FileNotFoundError, ArtifactError):
            return b""

    def record(self, record_id: str) -> Record | None:
        """Return a record of the store; None where it has none of that id, or cannot be used."""
        if self.store is None:
            return None
        try:
            return next(self.store.get([record_id]))
        except StoreError:
            return None

    @cached_property
    def store(self) -> RecordStore | None:
        """The record store; None where there is none yet."""
        config = self.config.store
        if config.type == "sqlite" and not Path(resolve_path(config.path)).exists():
            return None
        return open_store(config)

    def close(self) -> None:
        """Close what was opened."""
        if "store" in self.__dict__ and self.store is not None:
            self.store.close()

    @cached_property
    def champions(self) -> dict[str, frozenset[str]]:
        """The folders of champions, with the keys of the artifacts that each names: in force, of history, of
        the timeline, of holds.
        """
        found = {}
        for workload in self.root.list("champions"):
            for client in self.root.list(f"champions/{workload}"):
                folder = f"champions/{workload}/{client}"
                files = [file for file in self.files(folder) if file.path.endswith(".json")]
                # Older histories name the adapter in the names of files alone.
                named = {key.decode() for file in files for key in KEY.findall(file.path.encode())}
                found[folder] = self.keys_in(files) | named
        return found

    def champions_in(self, folder: str) -> Iterator[dict[str, Any]]:
        """Yield each champion that the files of a folder hold: in force, of decisions, of the timeline.

        Raises:
            ArtifactError: a file is damaged, so that nobody knows what it needs.
        """
        for file in self.files(folder):
            is_copy = "/whole/" in file.path or "/mlflow/" in file.path
            if file.path.endswith(".json") and not is_copy:
                yield from _champions(self.root.read_json(file.path))

    def champions_of(self, client_id: str, workload_id: str | None) -> list[str]:
        """Return the folders of a client's champions."""
        if workload_id is not None:
            folder = champion_folder(workload_id, client_id)
            return [folder] if folder in self.champions else []
        own = champion_folder("any", client_id).rsplit("/", 1)[1]
        return [folder for folder in self.champions if folder.rsplit("/", 1)[1] == own]


def _champions(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        if {"adapter", "student", "run_id"} <= data.keys():
            yield data
        for value in data.values():
            yield from _champions(value)
    elif isinstance(data, list):
        for value in data:
            yield from _champions(value)


def _changed(info: dict[str, Any]) -> float:
    """Return when a file was written, by what its file system tells: as a number or a datetime."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str) and value:
            return datetime.fromisoformat(value).timestamp()
    return time.time()  # unknown: it counts as new
