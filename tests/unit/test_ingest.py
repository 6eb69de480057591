"""Ingest: labelled headlines and log records go into the store once; bad ones into the quarantine."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import SourceError
from flywheel.stages.ingest import QUARANTINE_FILE, IngestResult, ingest
from flywheel.stages.label import LabelResult
from flywheel.stores.sqlite import SqliteStore
from tests.unit.news_records import news_plan, news_record
from tests.unit.store_contract import ALWAYS, SCOPE

LABELLED = LabelResult(
    headlines=0, labelled=0, asked=0, found=0, quarantined=0, later=0, records_file="labelled.jsonl",
    quarantine_file="label.quarantine.jsonl", prompt_tokens=0, completion_tokens=0, human=None, seconds=0,
)  # fmt: skip
LOGS = {"path": "logs.jsonl", "kind": "log_records"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workloads = Path("include/workloads").resolve()
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    (tmp_path / "include").mkdir()
    (tmp_path / "include/workloads").symlink_to(workloads)
    folder = tmp_path / "runs [a] *" / "night"  # characters that a pattern of file names would read
    folder.mkdir(parents=True)
    return folder


def write(path: Path, lines: list[Any]) -> None:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x.to_json())) + "\n" for x in lines))


def run(folder: Path, labelled: list[Any], logs: list[Any] | None = None, **named: Any) -> IngestResult:
    write(folder / "labelled.jsonl", labelled)
    if logs is not None:
        write(folder.parents[1] / "logs.jsonl", logs)
        named["source"] = [LOGS]
    return ingest(news_plan(folder.parents[1], **named), folder, LABELLED)


def figures(result: IngestResult) -> tuple[int, int, int, int]:
    return result.read, result.written, result.already_there, result.quarantined


def test_labelled_and_logged_records_are_written_once(folder: Path) -> None:
    labelled = [news_record(f"h {i}") for i in range(5)]
    logs = [labelled[0], news_record("logged", client_id="app"), news_record("logged", client_id="app")]
    assert figures(run(folder, labelled, logs)) == (8, 6, 2, 0)
    assert figures(run(folder, labelled, logs)) == (8, 0, 8, 0)
    with SqliteStore(folder.parents[1] / "records.sqlite") as store:
        assert {r.id for r in store.read(*SCOPE, ALWAYS)} == {r.id for r in labelled}
        assert store.count("news_classifier", "app", ALWAYS) == 1


def test_bad_records_are_set_aside_with_file_line_and_reason(folder: Path) -> None:
    good = news_record("good")
    unknown = json.dumps(good.to_json()).replace("[[[other]]]", "[[[weather]]]")
    result = run(folder, [good], ["{not json", good, unknown, '{"workload_id": "news_classifier"}', "[]"])
    assert figures(result) == (6, 1, 1, 4)
    assert sum(result.reasons.values()) == 4
    entries = [json.loads(line) for line in (folder / QUARANTINE_FILE).read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [1, 3, 4, 5]
    assert all(entry["file"].endswith("logs.jsonl") and entry["reason"] for entry in entries)
    assert "names none of the classes" in entries[1]["reason"]


def test_records_from_the_cutoff_on_are_left_for_later_runs(folder: Path) -> None:
    logs = [news_record(f"h {t}", timestamp=t) for t in (998, 999, 1000, 1001)]
    first = run(folder, [], logs, cutoff=1000)
    assert (*figures(first), first.later) == (2, 2, 0, 0, 2)
    second = run(folder, [], logs, cutoff=2000)
    assert (*figures(second), second.later) == (4, 2, 2, 0, 0)


def test_records_of_other_workloads_are_passed_over(folder: Path) -> None:
    result = run(folder, [], [news_record("h"), news_record("h", workload_id="summaries")])
    assert (*figures(result), result.other_workload) == (1, 1, 0, 0, 1)


def test_nothing_to_read_is_no_error(folder: Path) -> None:
    assert figures(run(folder, [])) == (0, 0, 0, 0)


def test_a_missing_source_is_named_with_its_key(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"logs\.jsonl.*source\.0\.path"):
        run(folder, [], None, source=[LOGS])


# A process that kills itself when 700 records have been read: a killer outside would race with it.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.news_records import news_plan
from tests.unit.test_ingest import LABELLED, LOGS
from flywheel.stages import ingest as stage
from flywheel.stores import sqlite

read = stage.read_log_records

def read_in_part(*arguments, **named):
    for count, record in enumerate(read(*arguments, **named)):
        if count == 700:
            os.kill(os.getpid(), signal.SIGKILL)
        yield record

stage.read_log_records = read_in_part
sqlite.WRITE_BATCH = 50
stage.ingest(news_plan(Path(sys.argv[1]).parents[1], source=[LOGS]), Path(sys.argv[1]), LABELLED)
"""


def test_killed_in_the_middle_and_run_again_gives_the_same(folder: Path) -> None:
    logs: list[Any] = [news_record(f"h {i}") for i in range(1500)]
    logs.insert(7, "{")
    write(folder / "labelled.jsonl", [])
    write(folder.parents[1] / "logs.jsonl", logs)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with SqliteStore(folder.parents[1] / "records.sqlite") as store:
        there = store.count(*SCOPE, ALWAYS)
    assert there == 700
    result = run(folder, [], logs)
    assert figures(result) == (1501, 1500 - there, there, 1)
    assert len((folder / QUARANTINE_FILE).read_text().splitlines()) == 1


def test_the_teachers_records_keep_when_they_were_known_and_a_log_is_not_believed_that(folder: Path) -> None:
    made, logged = news_record("made", timestamp=1000), news_record("logged", timestamp=1000, known_at=7)
    lines = [json.dumps({**record.to_json(), "known_at": known, "labelled_by": "teacher"})
             for record, known in ((made, 5000), (logged, 7))]  # fmt: skip
    assert figures(run(folder, lines[:1], lines[1:])) == (2, 2, 0, 0)
    with SqliteStore(folder.parents[1] / "records.sqlite") as store:
        assert [(r.known_at, r.labelled_by) for r in store.get([made.id, logged.id])] == [
            (5000, "teacher"),
            (1000, "application"),
        ]
    assert run(folder, lines[:1], [], cutoff=5000).later == 1


def test_a_log_record_without_a_time_and_one_that_a_student_answered_are_set_aside(folder: Path) -> None:
    undated, ours = news_record("undated", timestamp=0), news_record("ours").to_json()
    ours["response"]["model"] = "test/1b"
    assert figures(run(folder, [], [undated, json.dumps(ours), news_record("good")])) == (3, 1, 0, 2)
    entries = [json.loads(line)["reason"] for line in (folder / QUARANTINE_FILE).read_text().splitlines()]
    assert "timestamp: 0 is no time" in entries[0]
    assert "students' answers never train" in entries[1]


def test_a_run_for_another_client_leaves_the_configs_sources_alone(folder: Path) -> None:
    write(folder / "labelled.jsonl", [])
    write(folder.parents[1] / "logs.jsonl", [news_record("logged")])
    plan = news_plan(folder.parents[1], source=[LOGS]).model_copy(update={"client_id": "another"})
    assert figures(ingest(plan, folder, LABELLED)) == (0, 0, 0, 0)
