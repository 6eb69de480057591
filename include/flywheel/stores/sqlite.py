"""The embedded store: one SQLite file, no server.

Write-ahead logging lets readers and one writer work at once; further writers wait their turn. Commits are
synchronous=FULL: what `write` and `put_answers` returned from survives a killed process and a power cut, as
far as the disk keeps what it was told to sync. (With NORMAL a kill is survived too, but a power cut may take
the last commits; a commit holds a whole batch, so FULL costs little.) The file must be on a local disk:
WAL does not work on network file systems (https://sqlite.org/wal.html); processes on several machines need
another store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from flywheel.common.errors import StoreError
from flywheel.stores.base import Holdings, Owner, Rejected, WriteSummary
from flywheel.stores.prompts import (
    MAX_REFERENCES,
    Compressor,
    Frame,
    Reference,
    digest,
    skeleton_and_text,
)
from flywheel.stores.sqlite_answers import READ_BATCH, SqliteAnswers
from flywheel.stores.sqlite_file import SqliteFile
from flywheel.stores.sqlite_forgetting import forget, holdings
from flywheel.workloads.records import STRENGTH, Record

SCHEMA_VERSION = 3
# Records in a transaction. A killed writer loses at most these; other writers wait for so many.
WRITE_BATCH = 2000

# Who has asked for an answer; and a row for each time that a client was forgotten, by which other processes
# learn that prompts and scopes which they remember may be others.
_SCHEMA_3 = (
    "CREATE TABLE owners (key TEXT NOT NULL, scope INTEGER NOT NULL, PRIMARY KEY (key, scope)) WITHOUT ROWID",
    "CREATE TABLE forgettings (number INTEGER PRIMARY KEY)",
)
# The column `response` is NULL where the response holds the answer and nothing else; `labelled_by` is the
# place in `STRENGTH`, and NULL where a store of schema 1 did not keep it.
_SCHEMA = (
    """CREATE TABLE scopes (number INTEGER PRIMARY KEY, workload_id TEXT NOT NULL, client_id TEXT NOT NULL,
                            UNIQUE (workload_id, client_id))""",
    """CREATE TABLE prompts (number INTEGER PRIMARY KEY, skeleton_digest BLOB NOT NULL,
                             text_digest BLOB NOT NULL, skeleton BLOB NOT NULL, text TEXT NOT NULL,
                             UNIQUE (skeleton_digest, text_digest))""",
    """CREATE TABLE records (id BLOB PRIMARY KEY, scope INTEGER NOT NULL, timestamp INTEGER NOT NULL,
                             label TEXT NOT NULL, prompt INTEGER NOT NULL, first INTEGER NOT NULL,
                             last INTEGER NOT NULL, text TEXT NOT NULL, answer TEXT NOT NULL,
                             response BLOB, known_at INTEGER, labelled_by INTEGER)""",
    "CREATE UNIQUE INDEX records_known ON records (scope, known_at, timestamp, id, labelled_by)",
    """CREATE TABLE answers (key TEXT PRIMARY KEY, content TEXT NOT NULL, model TEXT NOT NULL,
                             created INTEGER NOT NULL, usage BLOB NOT NULL) WITHOUT ROWID""",
    *_SCHEMA_3,
)
_COLUMNS = "id, scope, timestamp, label, prompt, first, last, text, answer, response, known_at, labelled_by"
# What a record that is written again may change: the earliest time and the strongest word stay. Where a store
# of schema 1 kept neither (labelled_by IS NULL), what the sources say now replaces what the migration
# took for granted; a post does not.
_WRITE = f"""
    INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        known_at = CASE WHEN labelled_by IS NULL THEN excluded.known_at
                        ELSE min(coalesce(known_at, excluded.known_at), excluded.known_at) END,
        labelled_by = min(coalesce(labelled_by, excluded.labelled_by), excluded.labelled_by)
    WHERE excluded.known_at IS NOT NULL AND CASE WHEN labelled_by IS NULL
        THEN excluded.labelled_by < {STRENGTH.index("posted")}
        ELSE known_at IS NULL OR excluded.known_at < known_at OR excluded.labelled_by < labelled_by END
"""  # noqa: S608
_LAST_ROW = "SELECT coalesce(max(rowid), 0) FROM records"
# From schema 1: a record counts as known at its timestamp, though not after now, for it is here; who labelled
# it is told by the sources that give it again. One transaction, so a killed one leaves the file as it was.
_MIGRATIONS = {
    1: (
        "ALTER TABLE records ADD COLUMN known_at INTEGER",
        "ALTER TABLE records ADD COLUMN labelled_by INTEGER",
        "UPDATE records SET known_at = min(timestamp, CAST(strftime('%s') AS INTEGER)) WHERE timestamp > 0",
        "DROP INDEX records_in_time",
        "CREATE UNIQUE INDEX records_known ON records (scope, known_at, timestamp, id, labelled_by)",
    ),
    2: _SCHEMA_3,
}


class SqliteStore(SqliteAnswers):
    """A `RecordStore` in one SQLite file.

    Args:
        path: the file, made with its folder where there is none.
        cache_mb: of its pages, at most.

    Raises:
        StoreError: the file is not a store, is damaged, or a newer flywheel made it.
    """

    def __init__(self, path: str | Path, *, cache_mb: int = 64) -> None:
        self.path = Path(path)
        self._compressor = Compressor()
        self._frame = lru_cache(maxsize=1024)(self._read_frame)
        super().__init__()
        self._file = SqliteFile(self.path, _SCHEMA, SCHEMA_VERSION, cache_mb, self._forget, _MIGRATIONS)
        self._connection = self._file.connection

    # -- records -------------------------------------------------------------------------------------

    def write(
        self, records: Iterable[Record], rejected: Callable[[Rejected], None] | None = None
    ) -> WriteSummary:
        """Write records; each batch of 2,000 is one transaction. None is ever rejected."""
        written = total = 0
        iterator = iter(records)
        while batch := list(islice(iterator, WRITE_BATCH)):
            total += len(batch)
            with self._file.transaction():
                written += self._write_batch(batch)
        return WriteSummary(written=written, already_there=total - written)

    def read(self, workload_id: str, client_id: str, before: int) -> Iterator[Record]:
        """Stream the records with known_at < before, ordered by (known_at, timestamp, id)."""
        # Pages instead of one long statement: a reader that takes its time pins no old pages in the log.
        after = (-1, -1, b"")
        while True:
            rows = self._file.select(
                f"SELECT {_COLUMNS} FROM records WHERE scope = ? AND known_at < ? "  # noqa: S608
                "AND (known_at, timestamp, id) > (?, ?, ?) ORDER BY known_at, timestamp, id LIMIT ?",
                (self._scope(workload_id, client_id), before, *after, READ_BATCH),
            )
            for row in rows:
                yield self._record(row)
            if len(rows) < READ_BATCH:
                return
            after = (rows[-1][10], rows[-1][2], rows[-1][0])

    def read_known(self, workload_id: str, client_id: str, before: int) -> Iterator[tuple[str, int]]:
        """Stream the ids of the records that `read` would give, in its order, each with its `known_at`."""
        after = (-1, -1, b"")
        while True:
            rows = self._file.select(
                "SELECT known_at, timestamp, id FROM records WHERE scope = ? AND known_at < ? "
                "AND (known_at, timestamp, id) > (?, ?, ?) ORDER BY known_at, timestamp, id LIMIT ?",
                (self._scope(workload_id, client_id), before, *after, 20 * READ_BATCH),
            )
            for known_at, _, row_id in rows:
                yield row_id.hex(), known_at
            if len(rows) < 20 * READ_BATCH:
                return
            after = rows[-1]

    def get(self, ids: Iterable[str]) -> Iterator[Record]:
        """Stream the records of these ids, in the order of the ids."""
        iterator = iter(ids)
        while batch := list(islice(iterator, READ_BATCH)):
            keys = [self._key(record_id) for record_id in batch]
            places = ",".join("?" * len(keys))
            rows = self._file.select(f"SELECT {_COLUMNS} FROM records WHERE id IN ({places})", keys)  # noqa: S608
            found = {row[0]: row for row in rows}
            for key in keys:
                if key not in found:
                    raise StoreError(f"{self.path}: no record {key.hex()}; was the store replaced meanwhile?")
                yield self._record(found[key])

    def count(self, workload_id: str, client_id: str, before: int) -> int:
        """Return the number of records with known_at < before."""
        rows = self._file.select(
            "SELECT count(*) FROM records WHERE scope = ? AND known_at < ?",
            (self._scope(workload_id, client_id), before),
        )
        return int(rows[0][0])

    def counts_by_labeller(self, workload_id: str, client_id: str, before: int) -> dict[str, int]:
        """Return the number of records with known_at < before by who labelled them."""
        rows = self._file.select(
            "SELECT labelled_by, count(*) FROM records WHERE scope = ? AND known_at < ? "
            "GROUP BY labelled_by ORDER BY labelled_by",
            (self._scope(workload_id, client_id), before),
        )
        return {"unknown" if by is None else STRENGTH[by]: count for by, count in rows}

    def scopes(self) -> list[tuple[str, str]]:
        """Return the pairs of workload and client that have records, sorted."""
        rows = self._file.select(
            "SELECT workload_id, client_id FROM scopes WHERE EXISTS "
            "(SELECT 1 FROM records WHERE scope = scopes.number) ORDER BY workload_id, client_id",
            (),
        )
        return [(workload_id, client_id) for workload_id, client_id in rows]

    # -- forgetting ----------------------------------------------------------------------------------

    def holdings(self, owners: Sequence[Owner]) -> Holdings:
        """Count what the store holds of owners."""
        return holdings(self._file, owners)

    def forget(self, owners: Sequence[Owner], *, unowned: bool = False, before: int | None = None) -> None:
        """Remove what the store holds of owners, also from its file: `stores.sqlite_forgetting`."""
        forget(self._file, owners, unowned=unowned, before=before)
        self._forget()

    # -- connection ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; closing twice is no error."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """Forget what is remembered of rows: they may have been rolled back."""
        super()._forget()
        self._compressor = Compressor()

    # -- rows ----------------------------------------------------------------------------------------

    def _write_batch(self, batch: Sequence[Record]) -> int:
        """Insert records inside a transaction; return the number of new ones."""
        self._learn_of_forgettings()
        rows = []
        for record in batch:
            skeleton, text = skeleton_and_text(record.request)
            if not self._compressor.knows(skeleton):
                self._load_references(skeleton)
            difference = self._compressor.reduce(skeleton, text)
            rows.append(
                (
                    self._key(record.id),
                    self._make_scope(record.workload_id, record.client_id),
                    record.timestamp,
                    record.label,
                    self._number(difference.reference),
                    difference.first,
                    difference.last,
                    difference.text,
                    record.answer,
                    None
                    if record.response == _plain_response(record.answer)
                    else orjson.dumps(record.response),
                    record.known_at,
                    STRENGTH.index(record.labelled_by),
                )
            )
        # A row that is updated keeps its number, so the last number tells how many are new.
        (before,) = self._connection.execute(_LAST_ROW).fetchone()
        self._connection.executemany(_WRITE, rows)
        (after,) = self._connection.execute(_LAST_ROW).fetchone()
        return int(after - before)

    def _load_references(self, skeleton: bytes) -> None:
        """Tell the compressor the newest references of a skeleton that the store has."""
        rows = self._connection.execute(
            "SELECT number, text FROM prompts WHERE skeleton_digest = ? ORDER BY number DESC LIMIT ?",
            (digest(skeleton), MAX_REFERENCES),
        ).fetchall()
        for number, text in reversed(rows):
            self._compressor.know(Reference(skeleton, text, number))

    def _number(self, reference: Reference) -> int:
        """Return the row number of a reference, stored where it is new."""
        if reference.number is None:
            key = digest(reference.skeleton), digest(reference.text.encode())
            self._connection.execute(
                "INSERT OR IGNORE INTO prompts (skeleton_digest, text_digest, skeleton, text) "
                "VALUES (?, ?, ?, ?)",
                (*key, reference.skeleton, reference.text),
            )
            (reference.number,) = self._connection.execute(
                "SELECT number FROM prompts WHERE skeleton_digest = ? AND text_digest = ?", key
            ).fetchone()
        assert reference.number is not None
        return reference.number

    def _record(self, row: Sequence[Any]) -> Record:
        key, scope, timestamp, label, prompt, first, last, text, answer, response, known_at, labelled_by = row
        workload_id, client_id = self._scope_name(scope)
        return Record(
            id=key.hex(),
            workload_id=workload_id,
            client_id=client_id,
            timestamp=timestamp,
            request=self._frame(prompt).request(first, last, text),
            response=_plain_response(answer) if response is None else orjson.loads(response),
            label=label,
            known_at=known_at,
            labelled_by="application" if labelled_by is None else STRENGTH[labelled_by],
        )

    def _read_frame(self, prompt: int) -> Frame:
        rows = self._file.select("SELECT skeleton, text FROM prompts WHERE number = ?", (prompt,))
        if not rows:
            raise StoreError(f"{self.path}: damaged: prompt {prompt} of a record is missing; restore a copy")
        return Frame(*rows[0])

    def _key(self, record_id: str) -> bytes:
        try:
            return bytes.fromhex(record_id)
        except ValueError:
            raise StoreError(
                f"record id {record_id!r:.80}: expected hex digits, as flywheel.workloads.records makes them"
            ) from None


def _plain_response(answer: str) -> dict[str, Any]:
    """Return the response that holds the answer and nothing else, as flywheel itself writes it."""
    return {"choices": [{"message": {"role": "assistant", "content": answer}}]}
