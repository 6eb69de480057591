"""Log records that arrive as a stream: into the store, an answer for each line, the bad ones kept."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.connections import as_variable, find_connection
from flywheel.common.errors import StoreError
from flywheel.config.schema import StoreConfig
from flywheel.stores import open_store
from flywheel.web import record_process, record_stream
from flywheel.web.record_process import Task, take_apart
from flywheel.web.record_stream import AnswerFile, Body, take
from flywheel.workloads.workload import Workload

WORKLOAD_FILE = str(Path("include/workloads/news_classifier.yaml").absolute())
WORKLOAD = Workload.load(WORKLOAD_FILE)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))


def line(number: int, **changes: Any) -> bytes:
    record = {
        "request": {"model": "teacher", "messages": [{"role": "user", "content": f"Headline {number}"}]},
        "response": {"choices": [{"message": {"role": "assistant", "content": "[[[earnings]]]"}}]},
        "workload_id": "news_classifier",
        "client_id": "desk",
        "timestamp": 1_700_000_000 + number,
    }
    return json.dumps({**record, **changes}).encode() + b"\n"


def send(tmp_path: Path, data: bytes, *, piece: int = 1000, broken: bool = False, **arguments: Any) -> Any:
    """Send bytes in pieces; return what became of them and the answers."""
    body, answers = Body(), AnswerFile()

    def feed() -> None:
        for start in range(0, len(data), piece):
            if not body.put(data[start : start + piece]):
                return
        body.end(broken=broken)

    sender = threading.Thread(target=feed)
    sender.start()
    store = StoreConfig(path=str(tmp_path / "records.sqlite"))
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    taken = take(body, answers, store=store, root=root, workload=WORKLOAD, **arguments)
    sender.join()
    return taken, [json.loads(answer) for answer in b"".join(answers.chunks()).splitlines()]


def stored(tmp_path: Path) -> int:
    with open_store(StoreConfig(path=str(tmp_path / "records.sqlite"))) as store:
        return store.count("news_classifier", "desk", 2**40)


@pytest.mark.parametrize("piece", [1, 7, 1000, 10**6])
def test_each_line_is_answered_whatever_the_pieces(tmp_path: Path, piece: int) -> None:
    data = line(1) + b"nonsense\n" + line(2, timestamp="soon") + line(3)
    taken, answers = send(tmp_path, data, piece=piece)
    assert {answer["line"]: answer["status"] for answer in answers} == {
        1: "accepted",
        2: "quarantined",
        3: "quarantined",
        4: "accepted",
    }
    assert (taken.lines, taken.accepted, taken.written, taken.quarantined) == (4, 2, 2, 2)
    assert stored(tmp_path) == 2


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    taken, _ = send(tmp_path, line(1) + line(2).rstrip(b"\n"))
    assert taken.accepted == 2


def test_bad_lines_are_kept_with_their_reason(tmp_path: Path) -> None:
    taken, _ = send(tmp_path, line(1) + b'{"a": 1}\n')
    (kept,) = (tmp_path / "artifacts" / taken.quarantine).read_text().splitlines()
    assert json.loads(kept)["line"] == 2
    assert json.loads(kept)["raw"] == '{"a": 1}'


def test_bad_lines_are_kept_with_whose_they_are(tmp_path: Path) -> None:
    # The client's name comes after more than is kept of a line; what cannot be read is the request's.
    long = line(1, request={"messages": [{"role": "user", "content": "x" * 5000}]}, response=None)
    taken, _ = send(tmp_path, long + b"nonsense\n", workload_id="news_classifier")
    kept = [json.loads(one) for one in (tmp_path / "artifacts" / taken.quarantine).read_text().splitlines()]
    assert (kept[0]["workload_id"], kept[0]["client_id"]) == ("news_classifier", "desk")
    assert "desk" not in kept[0]["raw"] and "client_id" not in kept[1]
    taken, _ = send(tmp_path, b"nonsense\n", workload_id="news_classifier", client_id="desk")
    (one,) = (tmp_path / "artifacts" / taken.quarantine).read_text().splitlines()
    assert (json.loads(one)["workload_id"], json.loads(one)["client_id"]) == ("news_classifier", "desk")


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    send(tmp_path, line(1) + line(2))
    taken, _ = send(tmp_path, line(1) + line(2))
    assert (taken.written, taken.already_there) == (0, 2)
    assert stored(tmp_path) == 2


def test_only_the_bad_lines_are_answered_where_that_is_asked_for(tmp_path: Path) -> None:
    _, answers = send(tmp_path, line(1) + b"nonsense\n", tell_accepted=False)
    assert [answer["line"] for answer in answers] == [2]


def test_records_of_others_are_set_aside_where_that_is_asked_for(tmp_path: Path) -> None:
    data = line(1) + line(2, client_id="other") + line(3, workload_id="other")
    taken, answers = send(tmp_path, data, workload_id="news_classifier", client_id="desk")
    assert taken.accepted == 1
    assert {answer["line"] for answer in answers if answer["status"] == "quarantined"} == {2, 3}


def test_a_client_that_goes_away_leaves_whole_batches_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_stream, "BATCH", 2)
    taken, _ = send(tmp_path, line(1) + line(2) + line(3)[:30], broken=True)
    assert taken.stopped == "the client went away"
    assert stored(tmp_path) == 2


def test_no_more_is_read_after_too_many_bad_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_stream, "MOST_BAD_LINES", 3)
    taken, answers = send(tmp_path, b"x\n" * 100_000)
    assert taken.lines == 3
    assert "were bad" in taken.stopped
    assert len(answers) == 3


def test_a_store_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "records.sqlite").write_text("no database")
    with pytest.raises(StoreError):
        send(tmp_path, line(1))


def send_apart(tmp_path: Path, *pieces: bytes | Exception, **arguments: Any) -> Any:
    """Send pieces to a process of its own, an exception raised in its place."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    task = Task(
        store=StoreConfig(path=str(tmp_path / "records.sqlite")),
        root=str(tmp_path / "artifacts"),
        workload=WORKLOAD_FILE,
        **arguments,
    )
    answers = AnswerFile()
    taken = asyncio.run(take_apart(chunks(), answers, task))
    return taken, [json.loads(answer) for answer in b"".join(answers.chunks()).splitlines()]


def test_a_process_of_its_own_takes_a_body_the_same_way(tmp_path: Path) -> None:
    data = line(1) + b"nonsense\n" + line(2, client_id="other") + line(3).rstrip()
    taken, answers = send_apart(tmp_path, data[:100], data[100:101], data[101:], client_id="desk")
    assert {answer["line"]: answer["status"] for answer in answers} == {
        1: "accepted",
        2: "quarantined",
        3: "quarantined",
        4: "accepted",
    }
    assert (taken.lines, taken.written, taken.quarantined, taken.stopped) == (4, 2, 2, "")
    assert stored(tmp_path) == 2
    assert len((tmp_path / "artifacts" / taken.quarantine).read_text().splitlines()) == 2


def test_a_process_keeps_whole_batches_of_a_client_that_goes_away(tmp_path: Path) -> None:
    lines = b"".join(line(number) for number in range(record_stream.BATCH + 5))
    taken, _ = send_apart(tmp_path, lines, line(9_999_999)[:30], ClientDisconnect())
    assert taken.stopped == "the client went away"
    assert stored(tmp_path) == record_stream.BATCH


def test_a_body_that_turns_out_too_large_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too large"):
        send_apart(tmp_path, line(1), ValueError("too large"))
    assert stored(tmp_path) == 0


def test_a_process_reads_no_further_after_too_many_bad_lines(tmp_path: Path) -> None:
    taken, answers = send_apart(tmp_path, *[b"x\n" * 500_000] * 8)
    assert taken.lines == len(answers) == record_stream.MOST_BAD_LINES
    assert "were bad" in taken.stopped


def test_a_process_says_that_the_store_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "records.sqlite").write_text("no database")
    with pytest.raises(StoreError, match="not a record store"):
        send_apart(tmp_path, line(1))


def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_process.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with code 1"):
        send_apart(tmp_path, *[line(1) * 1000] * 100)


def test_another_process_is_told_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STORE", "https://me:p%40ss@search.test:9200/?verify=false")
    connection = find_connection("store", StoreError)
    assert connection is not None
    name, value = as_variable(connection)
    assert name == "AIRFLOW_CONN_STORE"
    monkeypatch.setitem(os.environ, name, value)
    assert find_connection("store", StoreError) == connection
