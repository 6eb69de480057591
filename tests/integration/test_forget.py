"""`flywheel forget` on what two clients have, killed five times at different moments."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flywheel.forgetting.base import Whose
from flywheel.forgetting.forget import find
from tests.unit.two_clients import GONE, STAYS, bytes_of, left_of, rows_of, two_clients

# Ends itself by SIGKILL before the event of a number: a file is removed or renamed, a transaction begins or
# ends, a database is written anew.
KILLED = """
import itertools, os, signal, sqlite3, sys
from contextlib import contextmanager
from flywheel.config.schema import Config
from flywheel.forgetting.base import Whose
from flywheel.forgetting import forget as room, machine_places, tracking_place
from flywheel.stores import sqlite_file, sqlite_forgetting

machine_places._airflow_environment = lambda: None
config = Config.model_validate_json(sys.argv[1])
findings = room.find(config, Whose(sys.argv[2]))
numbers, last = itertools.count(1), int(sys.argv[3])

def event(*_):
    if next(numbers) == last:
        os.kill(os.getpid(), signal.SIGKILL)

def told(name, arguments):
    if name in ("os.remove", "os.rename", "os.rmdir") and "artifacts" in os.fsdecode(os.readlink(
        f"/proc/self/fd/{arguments[1]}") if len(arguments) > 1 and isinstance(arguments[1], int)
        and arguments[1] >= 0 else str(arguments[0])):
        event()

sys.addaudithook(told)
begin = sqlite_file.SqliteFile.transaction

@contextmanager
def transaction(self):
    event()
    with begin(self):
        yield
        event()

sqlite_file.SqliteFile.transaction = transaction
sqlite_forgetting.BATCH = 20
for module, name in ((sqlite_forgetting, "_compact"), (tracking_place, "_compact"),
                     (tracking_place, "_delete_for_good")):
    def counted(*arguments, work=getattr(module, name)):
        event()
        work(*arguments)
        event()
    setattr(module, name, counted)
room.forget(config, findings, by="Ada", tell=lambda line: print(line, flush=True))
print("events", next(numbers) - 1, flush=True)
"""


def test_killed_five_times_it_leaves_nothing_of_the_one_and_touches_nothing_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.forgetting.machine_places._airflow_environment", lambda: None)
    config = two_clients(tmp_path, monkeypatch)
    rows, before = rows_of(config, STAYS), bytes_of(tmp_path / "artifacts")
    own = {name for name, data in before.items() if b"quuxly" in data.lower() or "quuxly" in name}
    told: list[str] = []

    def run(last: int) -> int:
        command = [sys.executable, "-c", KILLED, config.model_dump_json(), GONE, str(last)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        told.append(done.stdout)
        return done.returncode

    # The first while the intent is written, then in artifacts, in MLflow, in the store, in the runs.
    for last in (1, 25, 90, 8, 14):
        assert run(last) == -signal.SIGKILL, told
        assert rows_of(config, STAYS) == rows
    assert run(0) == 0, told
    assert not left_of(GONE, tmp_path)
    assert rows_of(config, STAYS) == rows
    after = bytes_of(tmp_path / "artifacts")
    quarantine = str(tmp_path / "artifacts/quarantine/records-1.jsonl")
    assert {name: after.get(name) for name in own - {quarantine}} == {
        name: before[name] for name in own - {quarantine}
    }
    assert find(config, Whose(GONE)).is_empty
    assert after[str(tmp_path / "artifacts/forgotten/log.jsonl")].count(b"\n") == 1
    print("\n".join(told))
