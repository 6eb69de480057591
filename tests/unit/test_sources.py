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

from flywheel.common.errors import SourceError
from flywheel.config.source import SourceConfig
from flywheel.sources import Headline, read_headlines
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.timestamps import TimeReader

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
