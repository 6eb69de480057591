"""Log records of applications: what is read, what is set aside, in JSON lines and in Parquet."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flywheel.common.errors import SourceError
from flywheel.sources import read_log_records
from flywheel.sources.quarantine import Quarantine
from flywheel.workloads.workload import Workload
from tests.unit.test_sources import MARCH_1, read_bytes, source

# -- log records ---------------------------------------------------------------------------------------

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")


def log_record(**changes: Any) -> dict[str, Any]:
    return {
        "request": {"model": "m", "messages": WORKLOAD.messages("Acme beats")},
        "response": {"choices": [{"message": {"role": "assistant", "content": "[[Earnings]]"}}]},
        "workload_id": WORKLOAD.id,
        "client_id": "desk",
        "timestamp": MARCH_1,
    } | changes


def read_logs(tmp_path: Path, data: bytes, **arguments: Any) -> Any:
    (tmp_path / "app.log").write_bytes(data)
    counts: Counter[str] = Counter()
    config = source(tmp_path / "app.log", kind="log_records")
    with Quarantine(tmp_path / "q.jsonl") as quarantine:
        records = list(read_log_records(config, quarantine, WORKLOAD, counts=counts, **arguments))
    return records, [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()], counts


def test_log_records_are_validated_and_bad_ones_set_aside(tmp_path: Path) -> None:
    lines = [
        log_record(),
        log_record(timestamp="noon"),
        log_record(response={}),
        log_record(timestamp=MARCH_1 + 100),
        log_record(workload_id="another"),
        log_record(workload_id=""),
    ]
    data = b"\n".join(json.dumps(line).encode() for line in lines) + b"\nnot json\n"
    records, bad, counts = read_logs(tmp_path, data, before=MARCH_1 + 100)
    assert [record.label for record in records] == ["Earnings"]
    assert [(entry["line"], entry["reason"].split(":")[0]) for entry in bad] == [
        (2, "timestamp"),
        (3, "response"),
        (6, "workload_id"),
        (7, "not valid JSON"),
    ]
    assert counts == {"used": 1, "quarantined": 4, "later": 1, "other_workload": 1}


@pytest.mark.parametrize("form", ["structs", "JSON text"])
def test_log_records_of_parquet_are_those_of_json_lines(tmp_path: Path, form: str) -> None:
    named = {"model": "m", "messages": [{"role": "user", "content": "Bolt", "name": "desk"}]}
    lines = [log_record(), log_record(request=named), log_record(response=None)]
    columns: dict[str, Any] = {name: [line[name] for line in lines] for name in lines[0]}
    if form == "JSON text":
        for name in ("request", "response"):
            columns[name] = [json.dumps(value) for value in columns[name]]
        lines.append(log_record())
        columns = {name: [*values, log_record()[name]] for name, values in columns.items()}
        columns["request"][3] = "{"
        columns["response"][3] = "{}"
    else:
        columns["timestamp"] = pa.array([datetime.fromtimestamp(MARCH_1, UTC)] * 3, pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table(columns), tmp_path / "app.parquet", row_group_size=1)
    counts: Counter[str] = Counter()
    config = source(tmp_path / "app.parquet", kind="log_records")
    with Quarantine(tmp_path / "q.jsonl") as quarantine:
        records = list(read_log_records(config, quarantine, WORKLOAD, counts=counts))
    bad = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    expected, _, _ = read_logs(tmp_path, b"\n".join(json.dumps(line).encode() for line in lines[:2]))
    assert records == expected
    assert [(entry["line"], entry["reason"].split(":")[0]) for entry in bad] == [
        (3, "response"),
        (4, "request"),
    ][: len(lines) - 2]
    assert all(entry["raw"].startswith('{"request":') for entry in bad)


def test_what_other_keys_of_a_headline_hold_does_not_matter(tmp_path: Path) -> None:
    line = b'{"headline": "Acme \\"headline\\"", "date": "2024-03-01", "id": 1, "id": 2, "n": %s}' % (
        b"7" * 40
    )
    headlines, bad = read_bytes(tmp_path, line, "h.jsonl")
    assert [h.text for h in headlines] == ['Acme "headline"'] and bad == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"request": {"model": "a", "model": "b"}}', "a key that is there twice: 'model'"),
        (b'{"request": {"seed": %s}}' % (b"7" * 40), "a whole number beyond 64 bits: 7777"),
        (b'{"request": %s}' % (b"[" * 200 + b"]" * 200), "nested too deeply: more than 100 levels"),
    ],
)
def test_a_log_record_that_would_not_be_kept_as_it_is_is_set_aside(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    records, bad, _ = read_logs(tmp_path, line)
    assert records == [] and bad[0]["line"] == 1 and bad[0]["reason"].startswith(reason)


def test_a_row_of_parquet_with_what_json_has_not_is_set_aside(tmp_path: Path) -> None:
    row = log_record(request={"messages": [{"role": "user", "content": "Bolt"}], "seed": b"\xff"})
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), tmp_path / "app.parquet")
    with Quarantine(tmp_path / "q") as quarantine:
        config = source(tmp_path / "app.parquet", kind="log_records")
        assert list(read_log_records(config, quarantine, WORKLOAD)) == []
    assert json.loads((tmp_path / "q").read_text())["reason"].startswith("cannot be kept as JSON")


def test_a_log_of_parquet_without_a_column_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"request": ["{}"], "answer": ["{}"]}), tmp_path / "app.parquet")
    config = source(tmp_path / "app.parquet", kind="log_records")
    with Quarantine(tmp_path / "q") as quarantine, pytest.raises(SourceError, match="no column 'response'"):
        list(read_log_records(config, quarantine, WORKLOAD))


def test_a_log_is_not_read_as_csv(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="jsonl or parquet for log_records"):
        source(tmp_path / "app.csv", kind="log_records", format="csv")


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    with Quarantine(tmp_path / "q") as quarantine, pytest.raises(SourceError, match="no such file"):
        list(read_log_records(source(tmp_path / "a.log", kind="log_records"), quarantine, WORKLOAD))
