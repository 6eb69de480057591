"""The part of the embedded store that keeps answers, and whose they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import orjson

from flywheel.stores.base import Owner, PaidAnswer
from flywheel.stores.sqlite_file import SqliteFile

READ_BATCH = 500


class SqliteAnswers:
    """Answers in an open file, with the numbers by which its rows name workloads and clients."""

    _file: SqliteFile
    _connection: sqlite3.Connection

    def __init__(self) -> None:
        self._scopes: dict[Owner, int] = {}
        self._scope_names: dict[int, Owner] = {}
        self._forgettings = 0

    def _forget(self) -> None:
        """Forget what is remembered of rows: they may have been rolled back."""
        self._scopes.clear()
        self._scope_names.clear()

    # -- answers -------------------------------------------------------------------------------------

    def get_answers(self, keys: Sequence[str]) -> dict[str, PaidAnswer]:
        """Return the answers that are there; keys without one are left out."""
        found: dict[str, PaidAnswer] = {}
        for start in range(0, len(keys), READ_BATCH):
            batch = keys[start : start + READ_BATCH]
            places = ",".join("?" * len(batch))
            rows = self._file.select(
                f"SELECT key, content, model, created, usage FROM answers WHERE key IN ({places})",  # noqa: S608
                batch,
            )
            for key, content, model, created, usage in rows:
                found[key] = PaidAnswer(content, model, created, orjson.loads(usage))
        return found

    def put_answers(self, answers: Sequence[tuple[str, PaidAnswer]], owner: Owner | None = None) -> None:
        """Keep answers in one transaction, on the disk when this returns."""
        rows = [
            (key, answer.content, answer.model, answer.created, orjson.dumps(answer.usage))
            for key, answer in answers
        ]
        with self._file.transaction():
            self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
            if owner is not None:
                self._own(owner, [key for key, _ in answers])

    def own_answers(self, owner: Owner, keys: Sequence[str]) -> None:
        """Keep that an owner uses answers, too; those that it is known to use cost a look."""
        scope, known = self._scope(*owner), set()
        for start in range(0, len(keys), READ_BATCH):
            batch = keys[start : start + READ_BATCH]
            places = ",".join("?" * len(batch))
            statement = f"SELECT key FROM owners WHERE scope = ? AND key IN ({places})"  # noqa: S608
            known |= {key for (key,) in self._file.select(statement, (scope, *batch))}
        if new := [key for key in keys if key not in known]:
            with self._file.transaction():
                self._own(owner, new)

    def read_owners(self) -> Iterator[tuple[Owner, str]]:
        """Stream all owners of answers with the keys of these, ordered by key."""
        after = ("", 0)
        while True:
            rows = self._file.select(
                "SELECT key, scope FROM owners WHERE (key, scope) > (?, ?) ORDER BY key, scope LIMIT ?",
                (*after, READ_BATCH),
            )
            for key, scope in rows:
                yield self._scope_name(scope), key
            if len(rows) < READ_BATCH:
                return
            after = rows[-1]

    def _own(self, owner: Owner, keys: Sequence[str]) -> None:
        self._learn_of_forgettings()
        scope = self._make_scope(*owner)
        rows = [(key, scope) for key in keys]
        self._connection.executemany("INSERT OR IGNORE INTO owners VALUES (?, ?)", rows)

    def read_answers(self) -> Iterator[tuple[str, PaidAnswer]]:
        """Stream all answers with their keys, ordered by key."""
        after = ""
        while True:
            rows = self._file.select(
                "SELECT key, content, model, created, usage FROM answers WHERE key > ? ORDER BY key LIMIT ?",
                (after, READ_BATCH),
            )
            for key, content, model, created, usage in rows:
                yield key, PaidAnswer(content, model, created, orjson.loads(usage))
            if len(rows) < READ_BATCH:
                return
            after = rows[-1][0]

    # -- scopes --------------------------------------------------------------------------------------

    def _learn_of_forgettings(self) -> None:
        """Forget what is remembered of rows where a client was forgotten since; inside a transaction."""
        (number,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM forgettings").fetchone()
        if number != self._forgettings:
            self._forget()
            self._forgettings = number

    def _scope(self, workload_id: str, client_id: str) -> int:
        """Return the number of a workload's client; 0, which no record has, where there is none."""
        key = (workload_id, client_id)
        if key not in self._scopes:
            rows = self._file.select("SELECT number FROM scopes WHERE workload_id = ? AND client_id = ?", key)
            if not rows:
                return 0
            self._scopes[key] = rows[0][0]
        return self._scopes[key]

    def _make_scope(self, workload_id: str, client_id: str) -> int:
        number = self._scope(workload_id, client_id)
        if not number:
            self._connection.execute(
                "INSERT INTO scopes (workload_id, client_id) VALUES (?, ?)", (workload_id, client_id)
            )
            number = self._scope(workload_id, client_id)
        return number

    def _scope_name(self, number: int) -> tuple[str, str]:
        if number not in self._scope_names:
            rows = self._file.select("SELECT workload_id, client_id FROM scopes WHERE number = ?", (number,))
            self._scope_names[number] = rows[0]
        return self._scope_names[number]
