"""The SQLite store: the contract of all stores, several processes, kills, damage, and its size on disk."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.common.errors import StoreError
from flywheel.config.store import StoreConfig
from flywheel.stores import PaidAnswer, RecordStore, open_store
from flywheel.stores.sqlite import SCHEMA_VERSION, SqliteStore
from flywheel.workloads.records import Record
from tests.unit.news_records import WORKLOAD, news_record
from tests.unit.store_contract import ALWAYS, SCOPE, StoreContract, records


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[RecordStore]:
        with SqliteStore(tmp_path / "new" / "records.sqlite") as store:
            yield store

    def reopen(self, store: RecordStore) -> RecordStore:
        assert isinstance(store, SqliteStore)
        return SqliteStore(store.path)


def write_part(path: Path, part: int) -> None:
    with SqliteStore(path) as store:
        for start in range(part * 100, part * 100 + 300, 100):
            store.write(records(500)[start : start + 100])
            store.put_answers([(f"{part} {start}", PaidAnswer("a", "m", 1))])


def test_processes_that_make_and_write_one_store_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_part, args=(path, part)) for part in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 3
    with SqliteStore(path) as store:
        assert {r.id for r in store.read(*SCOPE, ALWAYS)} == {r.id for r in records(500)}
        assert len(store.get_answers([f"{p} {p * 100 + s}" for p in range(3) for s in (0, 100, 200)])) == 9


KILLED = """
import sys
from flywheel.stores import PaidAnswer
from flywheel.stores.sqlite import SqliteStore
from tests.unit.store_contract import records
store = SqliteStore(sys.argv[1])
for i, record in enumerate(records(500)):
    store.put_answers([(str(i), PaidAnswer("a", "m", i))])
    store.write([record])
    print(i, flush=True)
"""


def test_what_a_killed_process_was_told_is_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        last = int(line)
        if last == 20:
            process.send_signal(signal.SIGKILL)
    process.wait()
    with SqliteStore(path) as store:
        there = store.count(*SCOPE, ALWAYS)
        assert last + 1 <= there <= last + 2
        assert len(store.get_answers([str(i) for i in range(last + 1)])) == last + 1
        store.write(records(there + 5))
        assert [r.id for r in store.read(*SCOPE, ALWAYS)] == [
            r.id for r in sorted(records(there + 5), key=lambda r: (r.timestamp, r.id))
        ]


def test_a_prompt_that_all_records_share_is_stored_once(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "records.sqlite") as store:
        store.write(news_record(f"Company {i} does things", timestamp=i) for i in range(2000))
    assert len(WORKLOAD.before) > 3000
    assert (tmp_path / "records.sqlite").stat().st_size < 2000 * 350


def test_a_prompt_that_was_edited_is_stored_once_more_and_not_each_time(tmp_path: Path) -> None:
    def versions(number: int) -> str:
        middle = f"Example of version {number}: " + f"{number}" * 500
        return "".join(f"Rule {i}. " for i in range(300)) + middle + " Answer in brackets. " * 100

    path = tmp_path / "records.sqlite"
    for night in range(4):  # each night another process, and in the third the prompt is another
        with SqliteStore(path) as store:
            store.write(
                news_record("", timestamp=1000 * night + i, messages=[
                    {"role": "user", "content": f"{versions(night // 2)} Headline: {night} {i} goes up"}
                ])
                for i in range(500)
            )  # fmt: skip
    assert path.stat().st_size < 2000 * 350
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM prompts").fetchone()[0] <= 4


def test_open_store_opens_what_the_config_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    with open_store(StoreConfig(path="deep/records.sqlite")):
        assert (tmp_path / "deep/records.sqlite").exists()


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=rf"newer flywheel made this store \(schema {SCHEMA_VERSION + 1}"):
        SqliteStore(path)


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "airflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE dag (id)")
    with pytest.raises(StoreError, match="another program's SQLite file"):
        SqliteStore(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("dag",)]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    path.write_text("id,headline\n" * 1000)
    with pytest.raises(StoreError, match=r"records\.sqlite: damaged or not a record store"):
        SqliteStore(path)


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with SqliteStore(path) as store:
        store.write(records(3000))
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))
    with pytest.raises(StoreError, match="damaged"), SqliteStore(path) as store:
        list(store.read(*SCOPE, ALWAYS))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="its folder cannot be made"):
        SqliteStore(tmp_path / "file" / "records.sqlite")


def test_a_writer_that_waits_too_long_says_what_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.stores.sqlite_file.BUSY_SECONDS", 0.2)
    path = tmp_path / "records.sqlite"
    with SqliteStore(path) as store, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreError, match="another process has been writing"):
            store.write(records(1))
        assert time.monotonic() - started < 10
        other.execute("ROLLBACK")
        assert store.write(records(1)).written == 1


def test_an_id_that_is_not_hex_is_named(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "records.sqlite") as store, pytest.raises(StoreError, match="'chat-1'"):
        list(store.get(["chat-1"]))


def make_old(path: Path, written: list[Record]) -> None:
    """Make a store as schema 1 had it."""
    with SqliteStore(path) as store:
        store.write(written)
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "DROP TABLE owners; DROP TABLE forgettings; DROP INDEX records_known; ALTER TABLE records DROP COLUMN known_at;"
            "ALTER TABLE records DROP COLUMN labelled_by;"
            "CREATE UNIQUE INDEX records_in_time ON records (scope, timestamp, id); PRAGMA user_version = 1;"
        )


def test_a_store_of_schema_1_is_brought_up_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    ahead = int(time.time()) + 100_000
    old = [news_record(str(number), timestamp=number) for number in (0, 10, 20, ahead)]
    make_old(path, old)
    with SqliteStore(path) as store:
        there = list(store.read(*SCOPE, ahead))
        assert [record.timestamp for record in there] == [10, 20, ahead]  # without a time: undated
        assert [record.known_at for record in there[:2]] == [10, 20]
        assert (there[2].known_at or 0) < ahead  # it is here, so it is known
        assert {record.labelled_by for record in there} == {"application"}
        # The sources say when and by whom; one who posts it again does not.
        store.write([replace(old[1], known_at=5, labelled_by="posted")])
        assert next(store.get([old[1].id])) == replace(old[1], labelled_by="application")
        store.write([replace(old[1], known_at=86_399)])
        assert next(store.get([old[1].id])) == replace(old[1], known_at=86_399, labelled_by="teacher")
    with sqlite3.connect(path) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM records WHERE scope = 1 AND known_at < 9 "
            "ORDER BY known_at, timestamp, id"
        ).fetchall()
        assert "records_known" in plan[0][3] and len(plan) == 1


MIGRATING = """
import sys
from flywheel.stores.sqlite import SqliteStore
print("begins", flush=True)
SqliteStore(sys.argv[1])
"""


def test_a_migration_that_is_killed_leaves_the_old_store_and_the_next_opening_does_it(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    make_old(path, records(3000))
    process = subprocess.Popen([sys.executable, "-c", MIGRATING, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with sqlite3.connect(path) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(records)")}
        assert connection.execute("PRAGMA user_version").fetchone() == (
            SCHEMA_VERSION if "known_at" in columns else 1,
        )
    with SqliteStore(path) as store:
        assert store.count(*SCOPE, ALWAYS) == 3000


def test_nothing_of_a_forgotten_client_is_left_in_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    prompt = "Sort this headline into one of these classes. " * 20
    with SqliteStore(path) as store:
        for start in range(0, 600, 100):  # in turns, so that they lie on the same pages
            for client in ("gone", "stays"):
                store.write(
                    news_record(f"{prompt}{i:04d} {client}-{i:04d}", client_id=client, timestamp=1 + i)
                    for i in range(start, start + 100)
                )
        store.put_answers(
            [(f"key-gone-{i}", PaidAnswer(f"gone-{i} says", "m", 1)) for i in range(300)],
            ("news_classifier", "gone"),
        )
        ids = [bytes.fromhex(name) for name, _ in store.read_known("news_classifier", "gone", ALWAYS)]
        assert len(ids) == 600
        store.forget([("news_classifier", "gone")])
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())  # the log is still there
    assert files.count(b"stays-") >= 600 and files.count(prompt.encode()) == 1
    assert b"gone" not in files
    assert not [key for key in ids if key in files]


FORGETTING = """
import sqlite3, sys
from flywheel.stores.sqlite import SqliteStore
from flywheel.stores import sqlite_forgetting

left = int(sys.argv[2])

def told(statement):
    global left
    if statement.startswith(("DELETE", "UPDATE", "INSERT", "VACUUM", "COMMIT", "PRAGMA wal")):
        left -= 1
        if left < 0:
            print("here", flush=True)
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)

sqlite_forgetting.BATCH = 100
store = SqliteStore(sys.argv[1])
store._connection.set_trace_callback(told)
store.forget([("news_classifier", "gone")])
"""


@pytest.mark.parametrize("after", [0, 3, 8, 12, 14, 15])
def test_forgetting_that_is_killed_is_done_again(tmp_path: Path, after: int) -> None:
    path, stays = tmp_path / "records.sqlite", ("news_classifier", "stays")
    with SqliteStore(path) as store:
        for client in ("gone", "stays"):
            store.write(
                news_record("Sort this. " * 40 + f"{i} {client}-{i}", client_id=client, timestamp=1 + i)
                for i in range(250)
            )
        store.put_answers(
            [(str(i), PaidAnswer("gone", "m", 1)) for i in range(150)], ("news_classifier", "gone")
        )
        before = list(store.read(*stays, ALWAYS))
    killed = subprocess.run(
        [sys.executable, "-c", FORGETTING, str(path), str(after)], stdout=subprocess.PIPE, check=False
    )
    assert killed.returncode == -signal.SIGKILL and killed.stdout == b"here\n"
    with SqliteStore(path) as store:
        assert list(store.read(*stays, ALWAYS)) == before
        store.forget([("news_classifier", "gone")])
        assert list(store.read(*stays, ALWAYS)) == before
        assert b"gone" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
