"""Small things in the artifact root that have to do with a client, and the record store."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from flywheel.forgetting.base import Place, Removable, Whose, place
from flywheel.forgetting.house import RunFolder
from flywheel.workloads.records import TRAFFIC

_DAY = 86_400.0
_CLIENT = re.compile(r'"client_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_WORKLOAD = re.compile(r'"workload_id"\s*:\s*("(?:[^"\\]|\\.)*")')


@place(50)
class PostedQuarantines(Place):
    """Posted records that were set aside."""

    name = "quarantine"
    keeps = (
        "lines of POST /api/records that were no records, as far as they or the request say whose they are"
    )

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the files that have lines of the client; the others' lines in them stay."""
        items = []
        for file in self.house.files("quarantine"):
            mine = [line for line in self._lines(file.path) if whose.has(*owner_of(line))]
            if mine:
                items.append(Removable(self.name, _id(whose, file.path), len(mine), sum(map(len, mine))))
        return items

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return old files."""
        days, now = self.house.config.retention.quarantine_days, time.time()
        return [
            Removable(self.name, _id(None, file.path), 1, file.bytes)
            for file in self.house.files("quarantine")
            if days is not None and now - file.changed > days * _DAY
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove a client's lines from files, or whole files."""
        for id in ids:
            whose, path = _of_id(id)
            lines = list(self._lines(path))
            left = [line for line in lines if whose is not None and not whose.has(*owner_of(line))]
            if not left:
                self.house.root.discard(path)
            elif len(left) < len(lines):
                self.house.root.write_bytes(path, b"".join(left))

    def _lines(self, path: str) -> Iterator[bytes]:
        yield from self.house.read(path).splitlines(keepends=True)


@place(55)
class Notes(Place):
    """What is noted of a client's sources, of words on costs, and of requests that may be repeated."""

    name = "notes"
    keeps = (
        "sources/ (paths, newest times), confirmations/ (who said yes to costs), idempotency/ (answers of "
        "the API, for two days)"
    )

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the files that name the client, or a run of his that nobody else's run is named as."""
        runs = [(run.run_id, whose.has(run.workload_id, run.client_id)) for run in self.house.runs]
        own = {run_id for run_id, is_his in runs if is_his} - {
            run_id for run_id, is_his in runs if not is_his
        }
        items = []
        for file in (file for folder in _NOTES for file in self.house.files(folder)):
            try:
                data = orjson.loads(self.house.read(file.path))
            except orjson.JSONDecodeError:
                continue
            if _is_his(data, whose, own):
                items.append(Removable(self.name, file.path, 1, file.bytes))
        return items

    def remove(self, ids: Iterable[str]) -> None:
        """Remove files."""
        for path in ids:
            self.house.root.discard(path)


@place(80)
class Store(Place):
    """The record store."""

    name = "store"
    keeps = "records; the answers of teacher and judge that nobody else has asked for as well"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the workloads in which the client has records or answers."""
        items = []
        for owner in self._owners(whose):
            store = self.house.store
            assert store is not None
            held = store.holdings([owner])
            note = f"{held.records:,} records, {held.answers:,} answers"
            items.append(
                Removable(self.name, orjson.dumps(owner).decode(), held.records + held.answers, 0, note)
            )
        return items

    def remarks(self, whose: Whose) -> list[str]:
        """Say what is shared with others."""
        owners, store = self._owners(whose), self.house.store
        if not owners or store is None:
            return []
        held = store.holdings(owners)
        said = []
        if held.shared_answers:
            said.append(f"{held.shared_answers:,} answers stay: another client has asked for them as well")
        if held.unowned_answers and not self._is_alone(owners):
            said.append(
                f"{held.unowned_answers:,} answers stay of which nobody knows who asked: they are older than "
                "that is kept, and no run has used them since"
            )
        return said

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return how much of production is older than the config's `retention.production_days`."""
        days, store = self.house.config.retention.production_days, self.house.store
        if days is None or store is None:
            return []
        # Whole days, so that a second look finds the same.
        before = int((time.time() // _DAY - days) * _DAY)
        items = []
        for workload, client in store.scopes():
            if workload.startswith(TRAFFIC) and (count := store.count(workload, client, before)):
                id = orjson.dumps((workload, client, before)).decode()
                items.append(Removable(self.name, id, count, 0, f"{count:,} requests of production"))
        return items

    def remove(self, ids: Iterable[str]) -> None:
        """Remove records and answers, or records before a time, also from the store's files."""
        store = self.house.store
        owners: dict[int | None, list[tuple[str, str]]] = {}
        for workload, client, *before in map(orjson.loads, ids):
            owners.setdefault(next(iter(before), None), []).append((workload, client))
        for before, theirs in owners.items():
            if store is not None:
                store.forget(theirs, unowned=before is None and self._is_alone(theirs), before=before)

    def _owners(self, whose: Whose) -> list[tuple[str, str]]:
        store = self.house.store
        if store is None:
            return []
        there = {*store.scopes(), *(owner for owner, _ in store.read_owners())}
        # Production's records of a workload are that workload's.
        return sorted(
            (workload, client)
            for workload, client in there
            if whose.has(workload.removeprefix(TRAFFIC), client)
        )

    def _is_alone(self, owners: Sequence[tuple[str, str]]) -> bool:
        """Return whether nobody else has records: then answers of which nobody knows whose are theirs."""
        store = self.house.store
        return store is not None and not set(store.scopes()) - set(owners)


_NOTES = ("sources", "confirmations", "idempotency")


def owner_of(line: bytes) -> tuple[str, str]:
    """Return the workload and client of a quarantined line, as it says or its raw text; "" where unknown."""
    try:
        entry = orjson.loads(line)
        raw = str(entry.get("raw") or "")
    except (orjson.JSONDecodeError, AttributeError):
        return "", ""
    return (
        str(entry.get("workload_id") or _found(_WORKLOAD, raw)),
        str(entry.get("client_id") or _found(_CLIENT, raw)),
    )


def _found(pattern: re.Pattern[str], raw: str) -> str:
    found = pattern.search(raw)
    try:
        return str(orjson.loads(found.group(1))) if found else ""
    except orjson.JSONDecodeError:
        return ""


def _is_his(data: Any, whose: Whose, run_ids: set[str]) -> bool:
    """Return whether a note names the client, or a run of his, anywhere."""
    if isinstance(data, dict):
        if "client_id" in data:
            return whose.has(data.get("workload_id", whose.workload_id), data["client_id"])
        return any(_is_his(value, whose, run_ids) for value in data.values())
    if isinstance(data, list):
        return bool(data) and all(_is_his(value, whose, run_ids) for value in data)
    return isinstance(data, str) and data in run_ids


def _id(whose: Whose | None, path: str) -> str:
    return orjson.dumps([whose and [whose.client_id, whose.workload_id], path]).decode()


def _of_id(id: str) -> tuple[Whose | None, str]:
    whose, path = orjson.loads(id)
    return (Whose(*whose) if whose else None), str(path)
