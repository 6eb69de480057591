"""A SQLite file that several processes use: its opening, its transactions, and its errors as sentences."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.common.errors import DiskFullError, StoreError
from flywheel.common.full_disk import explain
from flywheel.config.private import private_file, private_folder

log = logging.getLogger(__name__)

BUSY_SECONDS = 120.0
_APPLICATION_ID = 0x666C7977  # "flyw"


class SqliteFile:
    """An open SQLite file of ours.

    Args:
        path: the file, made with its folder where there is none.
        schema: the statements that make its tables.
        version: of the schema.
        cache_mb: of its pages, at most.
        on_rollback: called when a transaction was rolled back.
        migrations: by version, the statements that make the next version of it.

    Raises:
        StoreError: the file is not a store, is damaged, or a newer flywheel made it.
    """

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        version: int,
        cache_mb: int,
        on_rollback: Callable[[], None],
        migrations: Mapping[int, Sequence[str]],
    ) -> None:
        self.path = path
        self._schema = schema
        self._version = version
        self._cache_mb = cache_mb
        self._on_rollback = on_rollback
        self._migrations = migrations
        # One connection, so one statement at a time; other processes have their own.
        self._lock = threading.RLock()
        try:
            private_folder(path.parent)
        except OSError as error:
            raise StoreError(f"{path}: its folder cannot be made: {error}") from None
        with self.errors():
            private_file(path)  # SQLite gives the files beside it the same mode
            self.connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self.errors():
                self._prepare()
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the file; closing twice is no error."""
        with self._lock, self.errors():
            self.connection.close()

    def _prepare(self) -> None:
        """Set the connection up and make the tables where there are none."""
        connection = self.connection
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if tables and application != _APPLICATION_ID:
            raise StoreError(f"{self.path}: another program's SQLite file; choose another store.path")
        if version > self._version:
            raise StoreError(
                f"{self.path}: a newer flywheel made this store (schema {version}, this one knows "
                f"{self._version}); install that version, or choose another store.path"
            )
        self._use_write_ahead_log()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = {-1024 * self._cache_mb}")
        with self.transaction():
            # Asked again under the lock: another process may have made the tables meanwhile.
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {self._version}")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < self._version:
                self._migrate(version)

    def _migrate(self, version: int) -> None:
        """Bring the tables from an older version to this one, inside a transaction: all of it, or nothing."""
        log.info("%s: bringing the store from schema %d to %d", self.path, version, self._version)
        for step in range(version, self._version):
            for statement in self._migrations[step]:
                self.connection.execute(statement)
        self.connection.execute(f"PRAGMA user_version = {self._version}")

    def _use_write_ahead_log(self) -> None:
        # SQLite does not wait for its busy timeout when two processes switch a new file at once.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Give a transaction; an error in it rolls it back."""
        with self._lock, self.errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                self._on_rollback()
                raise

    def select(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Return the rows that a statement finds."""
        with self._lock, self.errors():
            return self.connection.execute(statement, parameters).fetchall()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into a `StoreError` that says what to do."""
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"{self.path}: {error}") from error
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StoreError(
                    f"{self.path}: another process has been writing for {BUSY_SECONDS:.0f} s; run this again"
                ) from error
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise DiskFullError(explain(error, self.path)) from error
            raise StoreError(
                f"{self.path}: {error}; check the path, its permissions, and the space on its disk"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path}: damaged or not a record store ({error}); restore a copy, or move the file "
                "away together with its -wal and -shm files to begin a new one"
            ) from error
