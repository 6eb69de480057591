"""Curation beside other processes: who writes meanwhile, the second process that reads, and kills."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import StoreError
from flywheel.curation import reading
from flywheel.curation.prompts import Sift
from flywheel.stages import curate as stage
from flywheel.stores.sqlite import SqliteStore
from tests.unit.news_records import news_plan, news_record
from tests.unit.test_curate import headlines, lines, run, store


def test_records_written_while_curate_reads_change_nothing(tmp_path: Path, monkeypatch) -> None:
    store(tmp_path, headlines(700))
    collect = stage.collect

    def and_write(texts: Any, config: Any) -> Any:
        store(tmp_path, headlines(30, seed=8))
        return collect(texts, config)

    monkeypatch.setattr(stage, "collect", and_write)
    assert run(tmp_path).used == 700


def test_a_second_process_that_reads_gives_the_same_dataset(tmp_path: Path, monkeypatch) -> None:
    records = [*headlines(700), news_record('a record with \n and " in its text')]
    here = run(tmp_path / "here", records)
    monkeypatch.setattr(reading, "APART_FROM", 1)
    apart = run(tmp_path / "apart", records)
    assert (apart.dataset, apart.found) == (here.dataset, False)
    for part in ("train", "val", "eval"):
        assert lines(tmp_path / "here", here, part) == lines(tmp_path / "apart", apart, part)


def test_what_is_wrong_in_the_second_process_is_said_here(tmp_path: Path, monkeypatch) -> None:
    store(tmp_path, headlines(50))
    plan = news_plan(tmp_path)
    monkeypatch.setattr(reading, "APART_FROM", 1)
    with SqliteStore(tmp_path / "records.sqlite") as opened:
        ids = [*(id for id, _ in opened.read_known(plan.workload_id, plan.client_id, plan.cutoff)), "f" * 32]
        with pytest.raises(StoreError, match=r"record f{32} is gone from the store"):
            list(reading.reduced(plan, opened, ids, Sift(None)))
        monkeypatch.setattr(reading.sys, "executable", "/bin/false")
        with pytest.raises(StoreError, match="the process that reads the records ended with code 1"):
            list(reading.reduced(plan, opened, ids, Sift(None)))


KILLED = """
import sys, time
from pathlib import Path
from flywheel.stages import curate as stage
from tests.unit.news_records import news_plan
write = stage._write
def slow(path, records, writer, **settings):
    write(path, records, writer, **settings)
    print("wrote", path, flush=True)
    time.sleep(60)
stage._write = slow
stage.curate(news_plan(Path(sys.argv[1])), Path(sys.argv[1]))
"""


def test_killed_in_the_middle_leaves_no_dataset_and_the_next_run_makes_it(tmp_path: Path) -> None:
    store(tmp_path, headlines(100))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("wrote")
    process.send_signal(signal.SIGKILL)
    process.wait()
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    assert [name for name in root.list("datasets") if not name.startswith(".")] == []
    started = time.monotonic()
    result = run(tmp_path)
    assert (result.found, result.used) == (False, 100)
    assert time.monotonic() - started < 30
    assert run(tmp_path).found
