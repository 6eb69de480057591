"""Sources: good rows are read from CSV, JSONL and Parquet alike; bad ones are set aside and none is lost."""

import bz2
import gzip
import json
import tempfile
import tracemalloc
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flywheel.common.errors import SourceError
from flywheel.config.source import SourceConfig
from flywheel.sources import Headline, read_headlines, read_log_records
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.timestamps import TimeReader
from flywheel.workloads.workload import Workload

MARCH_1 = 1709251200  # 2024-03-01T00:00:00Z
END_OF_DAY = 86399
HEADER = b"headline,date\n"
GOOD_ROW = b"Acme beats,2024-03-01\n"


def source(path: object, **settings: Any) -> SourceConfig:
    return SourceConfig.model_validate({"path": str(path), **settings})


def read(
    config: SourceConfig, tmp_path: Path, **arguments: Any
) -> tuple[list[Headline], list[dict[str, Any]]]:
    """Return what was read, and what was set aside."""
    aside = tmp_path / "quarantine.jsonl"
    with Quarantine(aside) as quarantine:
        headlines = list(read_headlines(config, quarantine, key="source.0", **arguments))
    return headlines, [json.loads(line) for line in aside.read_text().splitlines()]


def read_bytes(tmp_path: Path, data: bytes, name: str = "h.csv", **settings: Any) -> Any:
    (tmp_path / name).write_bytes(data)
    return read(source(tmp_path / name, **settings), tmp_path)


# -- good input ----------------------------------------------------------------------------------------


def test_csv_rows_are_read_with_file_and_line(tmp_path: Path) -> None:
    headlines, bad = read_bytes(
        tmp_path, HEADER + GOOD_ROW + b'"Bolt, ""the"" maker, cuts jobs",2024-03-02\n'
    )
    file = str(tmp_path / "h.csv")
    assert headlines == [
        Headline("Acme beats", MARCH_1, MARCH_1 + END_OF_DAY, None, file, 2),
        Headline(
            'Bolt, "the" maker, cuts jobs', MARCH_1 + 86400, MARCH_1 + 86400 + END_OF_DAY, None, file, 3
        ),
    ]
    assert bad == []


def test_a_quoted_field_may_span_lines_and_later_rows_keep_their_line_numbers(tmp_path: Path) -> None:
    headlines, bad = read_bytes(tmp_path, HEADER + b'"Acme\n beats\r\n  again",2024-03-01\n' + GOOD_ROW)
    assert [(h.text, h.line) for h in headlines] == [("Acme beats again", 2), ("Acme beats", 5)]
    assert bad == []


@pytest.mark.parametrize("delimiter", [b";", b"\t", b"|"])
def test_other_delimiters_are_recognized_by_the_header(tmp_path: Path, delimiter: bytes) -> None:
    headlines, _ = read_bytes(tmp_path, HEADER.replace(b",", delimiter) + GOOD_ROW.replace(b",", delimiter))
    assert headlines[0].text == "Acme beats"


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path: Path) -> None:
    headlines, bad = read_bytes(tmp_path, b"\xef\xbb\xbf" + (HEADER + GOOD_ROW).replace(b"\n", b"\r\n"))
    assert [h.text for h in headlines] == ["Acme beats"]
    assert bad == []


def test_a_last_line_without_an_end_is_read(tmp_path: Path) -> None:
    headlines, _ = read_bytes(tmp_path, HEADER + GOOD_ROW.rstrip())
    assert len(headlines) == 1


@pytest.mark.parametrize(
    ("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstandard.compress)]
)
def test_compressed_files_are_read(tmp_path: Path, ending: str, compress: Any) -> None:
    headlines, _ = read_bytes(tmp_path, compress(HEADER + GOOD_ROW), f"h.csv.{ending}")
    assert [h.text for h in headlines] == ["Acme beats"]


def test_jsonl_rows_are_read_with_mapped_columns(tmp_path: Path) -> None:
    rows = [
        {"title": "Acme beats", "at": MARCH_1, "who": "Earnings"},
        {"title": "Übermut 🚀", "at": MARCH_1 * 1000},
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    columns = {"text": "title", "timestamp": "at", "human_label": "who"}
    headlines, bad = read_bytes(tmp_path, data, "h.jsonl", columns=columns)
    assert [(h.text, h.timestamp, h.human_label) for h in headlines] == [
        ("Acme beats", MARCH_1, "Earnings"),
        ("Übermut 🚀", MARCH_1, None),
    ]
    assert bad == []


@pytest.mark.parametrize(
    "times",
    [
        pa.array([date(2024, 3, 1)] * 2),
        pa.array([datetime(2024, 3, 1)] * 2, pa.timestamp("ns")),
        pa.array([datetime(2024, 3, 1, tzinfo=UTC)] * 2, pa.timestamp("ns", "America/New_York")),
        pa.array([MARCH_1] * 2),
        pa.array(["2024-03-01"] * 2).dictionary_encode(),
    ],
    ids=["date", "timestamp", "timestamp with zone", "seconds", "dictionary"],
)
def test_parquet_rows_are_read_with_their_times(tmp_path: Path, times: Any) -> None:
    pq.write_table(pa.table({"headline": ["Acme beats", None], "date": times}), tmp_path / "h.parquet")
    headlines, bad = read(source(tmp_path / "h.parquet"), tmp_path)
    assert [(h.text, h.timestamp, h.line) for h in headlines] == [("Acme beats", MARCH_1, 1)]
    assert [(entry["line"], entry["reason"]) for entry in bad] == [(2, "headline: missing")]


def test_parquet_text_that_is_not_utf8_is_set_aside(tmp_path: Path) -> None:
    text = pa.array([b"Acme beats", b"Caf\xe9 closes"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, text.buffers())
    pq.write_table(pa.table({"headline": text, "date": [MARCH_1] * 2}), tmp_path / "h.parquet")
    headlines, bad = read(source(tmp_path / "h.parquet"), tmp_path)
    assert [h.text for h in headlines] == ["Acme beats"]
    assert (bad[0]["line"], bad[0]["reason"], bad[0]["raw"]) == (2, "not valid UTF-8", "Caf\\xe9 closes")


def test_all_files_of_a_glob_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, text in (("b.csv", b"Second"), ("a.csv", b"First"), ("a.txt", b"Other")):
        (tmp_path / name).write_bytes(HEADER + text + b",2024-03-01\n")
    headlines, _ = read(source(tmp_path / "*.csv"), tmp_path)
    assert [h.text for h in headlines] == ["First", "Second"]


def test_a_remote_file_is_read_by_its_url(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/news/h.csv", HEADER + GOOD_ROW)
    headlines, _ = read(source("memory://news/*.csv"), tmp_path)
    assert [h.text for h in headlines] == ["Acme beats"]


def test_headlines_from_the_cutoff_on_are_left_for_later(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_bytes(HEADER + GOOD_ROW + b"Bolt sinks,2024-03-02\n")
    counts: Counter[str] = Counter()
    before = MARCH_1 + END_OF_DAY + 1
    headlines, bad = read(source(tmp_path / "h.csv"), tmp_path, before=before, counts=counts)
    assert [h.text for h in headlines] == ["Acme beats"]
    assert (counts["used"], counts["later"], bad) == (1, 1, [])


def test_a_date_without_a_time_is_known_when_its_day_ends(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_bytes(HEADER + GOOD_ROW + b"Bolt sinks,2024-03-01T00:00:00\n")
    counts: Counter[str] = Counter()
    at_two_in_the_night = MARCH_1 + 7200
    headlines, _ = read(source(tmp_path / "h.csv"), tmp_path, before=at_two_in_the_night, counts=counts)
    assert [(h.text, h.timestamp, h.known_at) for h in headlines] == [("Bolt sinks", MARCH_1, MARCH_1)]
    assert counts["later"] == 1


def test_a_slow_feed_is_known_later_than_its_time(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_bytes(HEADER + GOOD_ROW + b"Bolt sinks,2024-03-01T09:30:00\n")
    headlines, _ = read(source(tmp_path / "h.csv", known_after=60), tmp_path)
    assert [(h.known_at or 0) - h.timestamp for h in headlines] == [END_OF_DAY + 60, 60]


@pytest.mark.parametrize(
    ("value", "zone", "known_after"),
    [
        ("2024-03-01", "UTC", 86399),
        ("20240301", "UTC", 86399),
        (20240301, "UTC", 86399),
        ("2024-W09-5", "UTC", 86399),
        (date(2024, 3, 1), "UTC", 86399),
        ("2024-03-31", "Europe/Berlin", 86399 - 3600),  # a day of 23 hours
        ("2024-03-01T00:00", "UTC", 0),
        ("Fri, 01 Mar 2024 00:00:00 +0000", "UTC", 0),
        (datetime(2024, 3, 1), "UTC", 0),
        (1709251200, "UTC", 0),
        ("1709251200", "UTC", 0),
    ],
)
def test_only_a_value_without_a_time_of_day_waits_for_its_end(
    value: Any, zone: str, known_after: int
) -> None:
    timestamp, known_at = TimeReader(ZoneInfo(zone)).read(value)
    assert timestamp == TimeReader(ZoneInfo(zone)).read(value).timestamp
    assert known_at - timestamp == known_after


def test_texts_without_a_time_serve_the_check_of_the_teacher_alone(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    (tmp_path / "h.csv").write_bytes(b"headline,human\nAcme beats,Earnings\nBolt sinks,\n")
    columns = {"timestamp": None, "human_label": "human"}
    headlines, _ = read(source(tmp_path / "h.csv", columns=columns), tmp_path, before=1, counts=counts)
    assert [(h.text, h.timestamp, h.known_at) for h in headlines] == [("Acme beats", 0, None)]
    assert (counts["used"], counts["passed_over"]) == (1, 1)


def test_a_large_file_is_read_in_flat_memory(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_bytes(HEADER + GOOD_ROW * 10_000)
    with Quarantine(tmp_path / "q") as quarantine:
        tracemalloc.start()
        count = sum(1 for _ in read_headlines(source(tmp_path / "h.csv"), quarantine))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 10_000
    assert peak < 500_000  # the rows as objects have 3 MB


# -- bad rows ------------------------------------------------------------------------------------------


def test_a_human_label_that_is_not_utf8_is_set_aside(tmp_path: Path) -> None:
    data = b"headline,date,who\nAcme,2024-03-01,Earnings\xff\nBolt,2024-03-01,Earnings\n"
    headlines, bad = read_bytes(tmp_path, data, columns={"human_label": "who"})
    assert [h.text for h in headlines] == ["Bolt"]
    assert [(entry["line"], entry["reason"]) for entry in bad] == [(2, "who: not valid UTF-8")]


BAD_CSV_ROWS = {
    "blank line": (b"\n", "blank line"),
    "only spaces": (b"   \n", "blank line"),
    "only delimiters": (b",\n", "blank line"),
    "empty text": (b",2024-03-01\n", "headline: empty"),
    "text of spaces": (b'"  ",2024-03-01\n', "headline: empty"),
    "text of punctuation": (b"---,2024-03-01\n", "headline: without a letter or digit"),
    "zero-width text": ("\u200b,2024-03-01\n".encode(), "headline: without a letter or digit"),
    "huge text": (b"A" * 10_001 + b",2024-03-01\n", "headline: too long: 10001 characters"),
    "text beyond the field limit": (b"A" * 200_000 + b",2024-03-01\n", "not valid CSV: field larger"),
    "line beyond the limit": (b"A" * 5_000_000 + b",2024-03-01\n", "line too long: more than 4194304"),
    "NUL": (b"Ac\x00me,2024-03-01\n", "headline: contains a NUL character"),
    "Latin-1 bytes": (b"Caf\xe9 closes,2024-03-01\n", "headline: not valid UTF-8"),
    "too few columns": (b"Acme beats\n", "wrong number of columns: 1, the header has 2"),
    "too many columns": (b"Acme, beats,2024-03-01\n", "wrong number of columns: 3, the header has 2"),
    "empty date": (b"Acme beats,\n", "date: expected an ISO date"),
    "date in words": (b"Acme beats,yesterday\n", "date: expected an ISO date"),
    "ambiguous date": (b"Acme beats,03/04/2024\n", "date: expected an ISO date"),
    "impossible date": (b"Acme beats,2024-02-30\n", "date: expected an ISO date"),
    "year alone": (b"Acme beats,2024\n", "date: expected an ISO date"),
    "date before 1970": (b"Acme beats,1969-12-31\n", "date: expected a time between 1970 and 3000"),
    "date after 3000": (b"Acme beats,9999-12-31\n", "date: expected a time between 1970 and 3000"),
    "not-a-number date": (b"Acme beats,nan\n", "date: expected an ISO date"),
    "endless number": (b"Acme beats," + b"9" * 400 + b"\n", "date: expected an ISO date"),
    "quote that is not closed": (b'"Acme beats,2024-03-01\n', "a quote that is not closed"),
    "text after a quote": (b'"Acme" beats,2024-03-01\n', "not valid CSV: ',' expected after"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_CSV_ROWS.values(), ids=BAD_CSV_ROWS.keys())
def test_a_bad_csv_row_is_set_aside_and_its_neighbours_are_read(
    tmp_path: Path, row: bytes, reason: str
) -> None:
    headlines, bad = read_bytes(
        tmp_path, HEADER + GOOD_ROW + row + b"Bolt sinks,2024-03-01\nCog up,2024-03-01\n"
    )
    assert [h.text for h in headlines] == ["Acme beats", "Bolt sinks", "Cog up"]
    assert [(entry["file"], entry["line"]) for entry in bad] == [(str(tmp_path / "h.csv"), 3)]
    assert bad[0]["reason"].startswith(reason)
    assert len(bad[0]["raw"]) <= 2000


def test_a_quote_that_is_not_closed_does_not_swallow_a_long_file(tmp_path: Path) -> None:
    data = HEADER + b'"lost,2024-03-01\n' + GOOD_ROW * 1000 + b'"lost too,2024-03-01\n'
    headlines, bad = read_bytes(tmp_path, data)
    assert len(headlines) == 1000
    assert [entry["line"] for entry in bad] == [2, 1003]


def test_a_quote_that_another_row_closes_does_not_join_the_two(tmp_path: Path) -> None:
    headlines, bad = read_bytes(tmp_path, HEADER + b'"lost,2024-03-01\n' + b'"Bolt, Inc. sinks",2024-03-01\n')
    assert [h.text for h in headlines] == ["Bolt, Inc. sinks"]
    assert [entry["line"] for entry in bad] == [2]


BAD_JSONL_ROWS = {
    "blank line": (b"\n", "blank line"),
    "cut off": (b'{"headline": "Acme\n', "not valid JSON"),
    "list": (b"[1]\n", "not a JSON object: got list"),
    "null": (b"null\n", "not a JSON object: got NoneType"),
    "NaN": (b'{"headline": "Acme", "date": NaN}\n', "not valid JSON"),
    "Latin-1 bytes": (b'{"headline": "Caf\xe9", "date": 1}\n', "not valid JSON"),
    "lone surrogate": (b'{"headline": "A\\ud800", "date": 1}\n', "not valid JSON"),
    "NUL": (b'{"headline": "A\\u0000", "date": 1}\n', "headline: contains a NUL character"),
    "no text": (b'{"date": 1}\n', "headline: missing"),
    "null text": (b'{"headline": null, "date": 1}\n', "headline: missing"),
    "number as text": (b'{"headline": 7, "date": 1}\n', "headline: expected a text, got int"),
    "list as text": (b'{"headline": ["a"], "date": 1}\n', "headline: expected a text, got list"),
    "no date": (b'{"headline": "Acme"}\n', "date: expected an ISO date"),
    "true as date": (b'{"headline": "Acme", "date": true}\n', "date: expected an ISO date"),
    "negative date": (b'{"headline": "Acme", "date": -5}\n', "date: expected a time between 1970"),
    "endless date": (b'{"headline": "Acme", "date": 1e300}\n', "date: expected a time between 1970"),
    "number as label": (
        b'{"headline": "Acme", "date": "2024-03-01", "who": 3}\n',
        "who: expected a text, got int",
    ),
    "line beyond the limit": (b'{"headline": "' + b"A" * 5_000_000 + b'"}\n', "line too long"),
    "deep nesting": (b"[" * 100_000 + b"\n", "not valid JSON"),
    "deeply nested date": (
        b'{"headline": "Acme", "date": ' + b"[" * 990 + b"]" * 990 + b"}\n",
        "date: expected a time, got an object",
    ),
    "text twice": (
        b'{"headline": "Acme", "date": 1, "headline": "Bolt"}\n',
        "a key that is there twice: 'headline'",
    ),
}


@pytest.mark.parametrize(("row", "reason"), BAD_JSONL_ROWS.values(), ids=BAD_JSONL_ROWS.keys())
def test_a_bad_jsonl_row_is_set_aside_and_its_neighbours_are_read(
    tmp_path: Path, row: bytes, reason: str
) -> None:
    good = b'{"headline": "Acme beats", "date": "2024-03-01", "who": "Earnings"}\n'
    headlines, bad = read_bytes(tmp_path, good + row + good, "h.jsonl", columns={"human_label": "who"})
    assert len(headlines) == 2
    assert [entry["line"] for entry in bad] == [2]
    assert bad[0]["reason"].startswith(reason)


# -- sources that cannot be read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("h.csv", b"", "is empty; expected a header line"),
        ("h.csv", b"headlin,date\nAcme,2024-03-01\n", "no column 'headline'; the nearest is 'headlin'"),
        ("h.csv", b"headline,day\nAcme,2024-03-01\n", "key source.0.columns.timestamp"),
        ("h.csv", b"headline,headline,date\na,b,2024-03-01\n", "the column 'headline' is there 2 times"),
        ("h.csv", "headline,date\nAcme,2024-03-01\n".encode("utf-16"), "is not UTF-8 text"),
        ("h.csv", HEADER + b"Acme,never\n", "not one row can be used"),
        ("h.csv.gz", b"not gzip", "cannot be read"),
        ("h.csv.gz", gzip.compress(HEADER + GOOD_ROW * 1000)[:-20], "cannot be read"),
        ("h.parquet", b"not Parquet", "is not a readable Parquet file"),
        ("h.jsonl", b'{"titel": "Acme", "date": 1}\n' * 200, "no column 'headline'"),
        ("h.jsonl", b'{"headlines": "Acme", "date": 1}\n', "the nearest is 'headlines'"),
        ("h.xlsx", b"PK", "set source.0.format to csv, jsonl or parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_with_its_name(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(SourceError) as caught:
        read_bytes(tmp_path, data, name)
    assert message in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("headline.csv", "no such file; the nearest in that folder is 'headlines.csv'"),
        ("*.parquet", "no such file"),
        ("nowhere/h.csv", "and no folder"),
        (".", "is a folder; give a glob"),
        ("nosuch://bucket/h.csv", "key source.0.path"),
    ],
)
def test_a_path_without_files_is_an_error_with_its_key(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "headlines.csv").write_bytes(HEADER + GOOD_ROW)
    with pytest.raises(SourceError) as caught:
        read(source(path if "://" in path else tmp_path / path), tmp_path)
    assert message in str(caught.value)
    assert "source.0.path" in str(caught.value)


# -- times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-03-01", MARCH_1),
        ("20240301", MARCH_1),
        (20240301, MARCH_1),
        (" 2024-03-01 ", MARCH_1),
        ("2024-03-01T00:00:00Z", MARCH_1),
        ("2024-03-01 00:00:00 UTC", MARCH_1),
        ("2024-03-01T02:00:00+02:00", MARCH_1),
        ("2024-03-01T00:00:00.999999999Z", MARCH_1),
        ("Fri, 01 Mar 2024 00:00:00 GMT", MARCH_1),
        (MARCH_1, MARCH_1),
        (MARCH_1 + 0.9, MARCH_1),
        (str(MARCH_1), MARCH_1),
        (f"{MARCH_1}.0", MARCH_1),
        (MARCH_1 * 1000, MARCH_1),
        (MARCH_1 * 1_000_000, MARCH_1),
        (MARCH_1 * 1_000_000_000, MARCH_1),
        (datetime(2024, 3, 1), MARCH_1),
        (date(2024, 3, 1), MARCH_1),
    ],
)
def test_times_are_read_in_all_usual_forms(value: object, expected: int) -> None:
    assert TimeReader(UTC).read(value).timestamp == expected


def test_a_time_without_a_zone_is_in_the_zone_of_the_source(tmp_path: Path) -> None:
    assert TimeReader(ZoneInfo("America/New_York")).read("2024-03-01").timestamp == MARCH_1 + 5 * 3600
    assert TimeReader(ZoneInfo("America/New_York")).read("2024-03-01T00:00:00Z").timestamp == MARCH_1
    headlines, _ = read_bytes(tmp_path, HEADER + GOOD_ROW, time_zone="Asia/Tokyo")
    assert headlines[0].timestamp == MARCH_1 - 9 * 3600


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


# -- anything at all -----------------------------------------------------------------------------------

PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [b'"', b",", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b'""', b"Acme", b"2024-03-01", GOOD_ROW]
        ),
        st.binary(max_size=8),
    ),
    max_size=30,
)


@pytest.mark.parametrize("name", ["h.csv", "h.jsonl", "h.parquet", "h.csv.gz"])
@given(pieces=PIECES, with_header=st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_rows_or_set_aside_or_a_source_error(
    name: str, pieces: list[bytes], with_header: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = (HEADER if with_header else b"") + b"".join(pieces)
        try:
            read_bytes(Path(folder), gzip.compress(data) if name.endswith("gz") else data, name)
        except SourceError as error:
            assert name in str(error)


@given(pieces=PIECES)
@settings(max_examples=150, deadline=None)
def test_whatever_precedes_them_the_last_rows_of_a_csv_file_are_read(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # So many that what precedes them is a small share: a larger one stops the source.
        rows = b"".join(b"Tail %d,2024-03-01\n" % number for number in range(300))
        headlines, bad = read_bytes(Path(folder), HEADER + b"".join(pieces) + b"\n" + rows)
    assert [h.text for h in headlines][-300:] == [f"Tail {number}" for number in range(300)]
    lines = [h.line for h in headlines] + [entry["line"] for entry in bad]
    assert len(lines) == len(set(lines))
