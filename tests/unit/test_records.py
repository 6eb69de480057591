"""Log records: the format of the logs, ids from content, and bad records refused with their key."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.common.errors import RecordError
from flywheel.sources.quarantine import Quarantine
from flywheel.workloads.records import Record, make_record

CLASSES = ("Earnings", "Guidance", "OTHER")
GOOD = {
    "request": {
        "model": "meta/llama-3.3-70b-instruct",
        "messages": [
            {"role": "system", "content": "You are a financial news classifier."},
            {"role": "user", "content": "Acme posts record profit"},
        ],
    },
    "response": {"choices": [{"message": {"role": "assistant", "content": "[[[earnings]]]"}}]},
    "workload_id": "news_classifier",
    "client_id": "demo",
    "timestamp": 1760845128,
}


def parse(data: object) -> Record:
    return Record.from_json(data, CLASSES, {})


def changed(path: str, value: object) -> dict:
    data = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    target = data
    for part in parents:
        target = target[int(part)] if part.isdigit() else target[part]
    if isinstance(target, list):
        last = int(last)
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return data


def test_a_record_of_the_log_format_survives_a_round_trip() -> None:
    record = parse(GOOD)
    assert record.label == "Earnings"
    assert record.to_json() == GOOD
    assert parse(json.loads(json.dumps(record.to_json()))).id == record.id


def test_the_id_changes_with_the_content_and_only_with_it() -> None:
    same = copy.deepcopy(GOOD)
    same["response"] |= {"id": "chatcmpl-1", "usage": {"total_tokens": 9}}
    assert parse(same).id == parse(GOOD).id
    others = {
        parse(changed("timestamp", 1760845129)).id,
        parse(changed("client_id", "other")).id,
        parse(changed("request.messages.1.content", "Acme cuts outlook")).id,
        parse(changed("response.choices.0.message.content", "[[[guidance]]]")).id,
    }
    assert len(others | {parse(GOOD).id}) == 5


def test_a_record_that_flywheel_makes_equals_the_one_read_back() -> None:
    made = make_record(
        workload_id="w", client_id="c", timestamp=1, model="m", answer="[[[other]]]", label="OTHER",
        messages=[{"role": "user", "content": "x"}],
    )  # fmt: skip
    assert parse(made.to_json()) == replace(made, labelled_by="application")


BAD = {
    "not an object": ([1], "JSON object"),
    "no workload": (changed("workload_id", ...), "workload_id"),
    "empty workload": (changed("workload_id", "  "), "workload_id"),
    "workload of wrong type": (changed("workload_id", 7), "workload_id"),
    "huge client": (changed("client_id", "x" * 1000), "client_id"),
    "no timestamp": (changed("timestamp", ...), "timestamp"),
    "text timestamp": (changed("timestamp", "2026-01-01"), "timestamp"),
    "boolean timestamp": (changed("timestamp", True), "timestamp"),
    "milliseconds": (changed("timestamp", 1760845128000), "milliseconds"),
    "negative timestamp": (changed("timestamp", -1), "timestamp"),
    "not a number": (changed("timestamp", math.nan), "timestamp"),
    "no request": (changed("request", ...), "request"),
    "request as text": (changed("request", "hi"), "request"),
    "no messages": (changed("request.messages", []), "request.messages"),
    "message as text": (changed("request.messages.1", "hi"), "request.messages.1"),
    "unknown role": (changed("request.messages.1.role", "robot"), "request.messages.1.role"),
    "role of wrong type": (changed("request.messages.1.role", ["user"]), "request.messages.1.role"),
    "a user's calls": (changed("request.messages.1.tool_calls", [{}]), "request.messages.1.tool_calls"),
    "content of wrong type": (changed("request.messages.1.content", 5), "request.messages.1.content"),
    "lone surrogate": (changed("request.messages.1.content", "\ud800"), "Unicode"),
    "huge content": (changed("request.messages.1.content", "x" * 1_000_001), "at most 1000000"),
    "no response": (changed("response", ...), "response"),
    "no choices": (changed("response.choices", []), "choices[0]"),
    "null answer": (changed("response.choices.0.message.content", None), "content"),
    "empty answer": (changed("response.choices.0.message.content", " "), "not empty"),
    "answer without a class": (changed("response.choices.0.message.content", "I cannot"), "names none"),
    "answer with two classes": (
        changed("response.choices.0.message.content", "[[[earnings]]] [[[guidance]]]"),
        "names none",
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_record_is_refused_with_its_key(case: str) -> None:
    data, expected = BAD[case]
    with pytest.raises(RecordError) as caught:
        parse(data)
    assert expected in str(caught.value)


def test_quarantined_input_keeps_file_line_reason_and_what_it_was(tmp_path: Path) -> None:
    with Quarantine(tmp_path / "quarantine.jsonl") as quarantine:
        quarantine.add("a.csv", 3, "date: not a date", "x" * 5000)
        quarantine.add("a.csv", None, "encoding", "\ud800")
        assert not quarantine.path.exists()
    first, second = map(json.loads, quarantine.path.read_text().splitlines())
    assert (first["file"], first["line"], first["reason"]) == ("a.csv", 3, "date: not a date")
    assert len(first["raw"]) == 2000
    assert second["raw"] == "\\ud800"
    assert (quarantine.count, quarantine.reasons) == (2, {"date": 1, "encoding": 1})
