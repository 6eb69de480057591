"""Removes clients from the embedded store, down to the bytes of its file.

A prompt that many records share is an earlier record's whole text (see `flywheel.stores.prompts`), so it may
be that of a client who goes. Where no record that stays has this text, those that share it get another one
of their own; they are read as before.

Numbers of prompts and scopes are never given twice: their rows stay, empty, so that what another process
remembers of them is never taken for something else. Each forgetting is noted in the table `forgettings`, by
which writers learn that they remember too much.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from flywheel.common.errors import StoreError
from flywheel.stores.base import Holdings, Owner
from flywheel.stores.prompts import Reference, difference, digest
from flywheel.stores.sqlite_file import SqliteFile

log = logging.getLogger(__name__)

# Rows in a transaction: another process that writes waits for so many.
BATCH = 2000
_SHARED = "EXISTS (SELECT 1 FROM owners AS other WHERE other.key = owners.key AND other.scope NOT IN ({0}))"


def holdings(file: SqliteFile, owners: Sequence[Owner]) -> Holdings:
    """Count what a store holds of owners."""
    scopes = _scopes(file, owners)
    places = ",".join(map(str, scopes))
    records = file.select(f"SELECT count(*) FROM records WHERE scope IN ({places})", ())  # noqa: S608
    shared, all_answers = file.select(
        f"SELECT coalesce(sum(shared), 0), count(*) FROM (SELECT max({_SHARED.format(places)}) AS shared "  # noqa: S608
        f"FROM owners JOIN answers USING (key) WHERE scope IN ({places}) GROUP BY key)",
        (),
    )[0]
    unowned = file.select(
        "SELECT count(*) FROM answers WHERE NOT EXISTS (SELECT 1 FROM owners WHERE owners.key = answers.key)",
        (),
    )
    return Holdings(records[0][0], all_answers - shared, shared, unowned[0][0])


def forget(file: SqliteFile, owners: Sequence[Owner], *, unowned: bool, before: int | None) -> None:
    """Remove what a store holds of owners; killed and done again it ends the same.

    Args:
        before: remove the records with known_at < before alone.

    Raises:
        StoreError: another process uses the file for so long that it cannot be written anew.
    """
    with file.errors():
        file.connection.execute("PRAGMA secure_delete = ON")
    scopes = _scopes(file, owners)
    places = ",".join(map(str, scopes))
    old = "" if before is None else f"AND known_at < {before:d}"
    while _deleted(
        file,
        "DELETE FROM records WHERE id IN "  # noqa: S608
        f"(SELECT id FROM records WHERE scope IN ({places}) {old} LIMIT {BATCH})",
    ):
        pass
    if before is None:
        _forget_answers(file, scopes, unowned=unowned)
    with file.transaction():
        for prompt in _prompts_to_replace(file.connection):
            _replace(file.connection, prompt)
        for scope in scopes if before is None else ():
            # Its number is not given again; no workload has an empty name.
            file.connection.execute(
                "UPDATE scopes SET workload_id = '', client_id = ? WHERE number = ?", (str(scope), scope)
            )
        file.connection.execute("INSERT INTO forgettings DEFAULT VALUES")
    _compact(file)


def _scopes(file: SqliteFile, owners: Sequence[Owner]) -> list[int]:
    rows = file.select("SELECT number, workload_id, client_id FROM scopes", ())
    return [number for number, *owner in rows if tuple(owner) in set(owners)]


def _deleted(file: SqliteFile, statement: str) -> int:
    with file.transaction():
        return file.connection.execute(statement).rowcount


def _forget_answers(file: SqliteFile, scopes: Sequence[int], *, unowned: bool) -> None:
    places = ",".join(map(str, scopes))
    while True:
        keys = file.select(f"SELECT DISTINCT key FROM owners WHERE scope IN ({places}) LIMIT {BATCH}", ())  # noqa: S608
        if not keys:
            break
        with file.transaction():
            file.connection.executemany(
                f"DELETE FROM answers WHERE key = ? AND NOT EXISTS (SELECT 1 FROM owners "  # noqa: S608
                f"WHERE owners.key = answers.key AND scope NOT IN ({places}))",
                keys,
            )
            file.connection.executemany(
                f"DELETE FROM owners WHERE key = ? AND scope IN ({places})",  # noqa: S608
                keys,
            )
    while unowned and _deleted(
        file,
        "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE NOT EXISTS "  # noqa: S608
        f"(SELECT 1 FROM owners WHERE owners.key = answers.key) LIMIT {BATCH})",
    ):
        pass


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt whose text is no record's that is there, with the record that is nearest to it, if any."""

    number: int
    skeleton: bytes
    text: str
    nearest: tuple[int, int, str] | None


def _prompts_to_replace(connection: sqlite3.Connection) -> list[_Prompt]:
    """Return the prompts whose text no record has."""
    own = dict(
        connection.execute("SELECT prompt, max(first + last) FROM records WHERE text = '' GROUP BY prompt")
    )
    # SQLite gives the other columns of the row that has the maximum.
    nearest = {
        prompt: (first, last, text)
        for prompt, first, last, text, _ in connection.execute(
            "SELECT prompt, first, last, text, max(first + last) FROM records GROUP BY prompt"
        )
    }
    found = []
    for number, skeleton, text in connection.execute("SELECT number, skeleton, text FROM prompts"):
        if skeleton != b"{}" and own.get(number) != len(text):
            found.append(_Prompt(number, skeleton, text, nearest.get(number)))
    return found


def _replace(connection: sqlite3.Connection, prompt: _Prompt) -> None:
    """Empty a prompt; the records that refer to it get the text of one of them instead."""
    connection.execute(
        "UPDATE prompts SET skeleton_digest = ?, text_digest = ?, skeleton = ?, text = '' WHERE number = ?",
        (b"forgotten", str(prompt.number).encode(), b"{}", prompt.number),
    )
    if prompt.nearest is None:
        return
    first, last, text = prompt.nearest
    reference = Reference(prompt.skeleton, _whole(prompt.text, first, last, text))
    key = digest(reference.skeleton), digest(reference.text.encode())
    connection.execute(
        "INSERT OR IGNORE INTO prompts (skeleton_digest, text_digest, skeleton, text) VALUES (?, ?, ?, ?)",
        (*key, reference.skeleton, reference.text),
    )
    (number,) = connection.execute(
        "SELECT number FROM prompts WHERE skeleton_digest = ? AND text_digest = ?", key
    ).fetchone()
    rows = connection.execute(
        "SELECT first, last, text, rowid FROM records WHERE prompt = ?", (prompt.number,)
    ).fetchall()
    changed = []
    for first, last, text, row in rows:
        found = difference(reference, _whole(prompt.text, first, last, text))
        changed.append((number, found.first, found.last, found.text, row))
    connection.executemany(
        "UPDATE records SET prompt = ?, first = ?, last = ?, text = ? WHERE rowid = ?", changed
    )


def _whole(shared: str, first: int, last: int, text: str) -> str:
    return f"{shared[:first]}{text}{shared[len(shared) - last :]}"


def _compact(file: SqliteFile) -> None:
    """Write the file anew: what was deleted earlier, or moved between pages, is in it until then."""
    with file.errors():
        file.connection.execute("VACUUM")
        # What VACUUM wrote is in the log too, and the log holds older pages until it is cut.
        (busy, *_) = file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreError(
            f"{file.path}: another process reads it, so its log still holds what was removed; run this again"
        )
