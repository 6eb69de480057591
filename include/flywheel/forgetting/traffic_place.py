"""What production was asked, where it is not in the store yet, and what its nights found out."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson

from flywheel.common.durable import put_in_place
from flywheel.common.errors import FlywheelError
from flywheel.forgetting.base import Place, Removable, Whose, place
from flywheel.forgetting.house import RunFolder
from flywheel.serving.nights import nights_folder
from flywheel.serving.traffic.segments import SUFFIX
from flywheel.serving.traffic.shipping import REFUSED, traffic_folder

_DAY = 86_400.0
# An endpoint that writes a segment closes it within seconds.
_WAIT_SECONDS = 20.0
_NIGHTS = "nights "


class TrafficError(FlywheelError):
    """A file of production's requests is written now."""


@place(78)
class Traffic(Place):
    """Requests of production on this machine, and the nights in the artifact root.

    The records of production that are in the store go with the client's others (place `store`).
    """

    name = "production"
    keeps = "requests of production that are not in the store yet, and what each night counted of them"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the files that have lines of the client, and the nights of his champions."""
        found = []
        for path in self._files():
            lines = [line for line in path.read_bytes().splitlines() if whose.has(*_owner(line))]
            if lines:
                note = orjson.dumps([path.name, whose.client_id, whose.workload_id]).decode()
                found.append(Removable(self.name, note, len(lines), sum(map(len, lines))))
        for workload in self._workloads(whose):
            folder = nights_folder(workload, whose.client_id)
            files = self.house.files(folder)
            if files:
                found.append(
                    Removable(self.name, _NIGHTS + folder, len(files), sum(file.bytes for file in files))
                )
        return found

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return what no store took, when it is old, and what killed endpoints have left half made."""
        retention, folder = self.house.config.retention, self._folder
        if not folder.is_dir():
            return []
        days = dict.fromkeys(folder.glob(".*.aside"), retention.scratch_days)
        if retention.quarantine_days is not None and (folder / REFUSED).exists():
            days[folder / REFUSED] = retention.quarantine_days
        now = time.time()
        return [
            Removable(self.name, orjson.dumps([path.name, None, None]).decode(), 1, path.stat().st_size)
            for path, most in days.items()
            if now - path.stat().st_mtime > most * _DAY
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove a client's lines, whole files, or nights.

        Raises:
            TrafficError: an endpoint writes one of the files all the time.
        """
        for id in ids:
            if id.startswith(_NIGHTS):
                for file in self.house.files(id.removeprefix(_NIGHTS)):
                    self.house.root.discard(file.path)
                continue
            name, client, workload = orjson.loads(id)
            path = self._folder / Path(name).name
            if client is None:
                path.unlink(missing_ok=True)
                continue
            with _held(path) as there:
                if there:
                    _rewrite(path, Whose(client, workload))

    @property
    def _folder(self) -> Path:
        return traffic_folder(self.house.config)

    def _files(self) -> list[Path]:
        return sorted([*self._folder.glob(f"*{SUFFIX}"), *self._folder.glob(REFUSED)])

    def _workloads(self, whose: Whose) -> list[str]:
        if whose.workload_id is not None:
            return [whose.workload_id]
        return self.house.root.list("production")


def _owner(line: bytes) -> tuple[str, str]:
    """Return workload and client of a line; of one that was refused, what stands behind the reason."""
    try:
        entry = orjson.loads(line.rpartition(b"\t")[2])
        return str(entry.get("workload_id") or ""), str(entry.get("client_id") or "")
    except (orjson.JSONDecodeError, AttributeError):
        return "", ""


def _rewrite(path: Path, whose: Whose) -> None:
    left = [line for line in path.read_bytes().splitlines(keepends=True) if not whose.has(*_owner(line))]
    if not left:
        path.unlink()
        return
    aside = path.with_name(f".{path.name}.forget.aside")
    aside.write_bytes(b"".join(left))
    put_in_place(aside, path)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a file that nobody writes or ships meanwhile; False where it has gone."""
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            yield False
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            if time.monotonic() > end:
                raise TrafficError(
                    f"{path}: an endpoint writes it; do this again, or stop the endpoint"
                ) from None
            time.sleep(0.1)
            continue
        try:
            yield path.exists()
        finally:
            os.close(file)
        return
