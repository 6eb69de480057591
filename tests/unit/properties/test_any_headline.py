"""Whatever a file of headlines holds, a row is read with its own text and time, set aside, or counted."""

import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import event, given
from hypothesis import strategies as st

from flywheel.common.errors import SourceError
from flywheel.config.schema import SourceConfig
from flywheel.sources import Headline, clean_text, read_headlines
from flywheel.sources.quarantine import Quarantine
from tests.unit.properties.inputs import JSON_VALUES, bounded

END_OF_DAY = 86399
_LETTERS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('",;\n\r\t\\\x00 \u2028\x85é€')),
    max_size=12,
)
TEXTS = st.one_of(
    _LETTERS, st.sampled_from(["Acme beats", "Café gewinnt – €5", '"Bolt, the maker"', "", " ", "'=1+1"])
)
ODD_TIMES = st.one_of(
    TEXTS,
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "2024-02-30",
            "24:00",
            "0000-00-00",
            "9999-12-31",
            "1969-12-31",
            "٢٠٢٤-٠٣-٠١",
            "20240301T",
            "1" * 5000,
        ]
    ),
)
TIMES = st.one_of(st.sampled_from(["2024-03-01", "2024-03-01T09:30:00Z"]), ODD_TIMES)
LABELS = st.one_of(st.none(), TEXTS)


def read(
    path: Path, **columns: str | None
) -> tuple[list[Headline], list[dict[str, Any]], Counter[str]] | None:
    """Return headlines, what was set aside, and the counts; None where the source is refused by its name."""
    counts: Counter[str] = Counter()
    aside = path.with_name("q.jsonl")
    try:
        with Quarantine(aside) as quarantine:
            source = SourceConfig.model_validate({"path": str(path), "columns": columns})
            headlines = list(read_headlines(source, quarantine, counts=counts))
    except SourceError as error:
        assert path.name in str(error) and "source" in str(error)
        return None
    return headlines, [json.loads(line) for line in aside.read_bytes().splitlines()], counts


def csv_bytes(rows: list[Any], encoding: str, errors: str = "strict") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["headline", "date", "who"])
    writer.writerows(rows)
    return text.getvalue().encode(encoding, errors)


def check(found: Any, rows: list[Any]) -> None:
    """Check that no row is lost, and that no headline is one that nobody wrote."""
    headlines, aside, counts = found
    assert counts.total() == len(rows)
    assert counts["used"] == len(headlines) and counts["quarantined"] == len(aside)
    lines = [headline.line for headline in headlines] + [entry["line"] for entry in aside]
    assert len(lines) == len(set(lines))
    assert all(entry["reason"] for entry in aside)
    written = Counter((clean_text(text), (label or "").strip() or None) for text, _, label in rows)
    assert not Counter((headline.text, headline.human_label) for headline in headlines) - written
    for headline in headlines:
        assert 0 <= headline.timestamp <= (headline.known_at or 0) <= headline.timestamp + END_OF_DAY + 3600


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "gb18030"]


@given(rows=st.lists(st.tuples(TEXTS, TIMES, LABELS), max_size=8), encoding=st.sampled_from(ENCODINGS))
@bounded(100)
def test_each_row_of_a_csv_file_in_any_encoding_is_read_right_or_set_aside(
    rows: list[tuple[str, str, str | None]], encoding: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news.csv"
        rows = [
            (text.replace("\r", " "), time.replace("\r", " "), label and label.replace("\r", " "))
            for text, time, label in rows
        ]
        path.write_bytes(csv_bytes(rows, encoding, "replace"))
        found = read(path, human_label="who")
    event(f"{encoding}: {'refused' if found is None else 'read'}")
    if found is None:
        # In UTF-8 a source is refused where not one row can be used, or too few times are understood.
        return
    if encoding == "cp1252":
        rows = [tuple(v and v.encode(encoding, "replace").decode(encoding) for v in row) for row in rows]
    check(found, rows)


@given(
    rows=st.lists(
        st.tuples(
            st.one_of(TEXTS, JSON_VALUES), st.one_of(TIMES, JSON_VALUES), st.one_of(LABELS, JSON_VALUES)
        ),
        max_size=8,
    ),
    bom=st.booleans(),
)
@bounded(100)
def test_each_row_of_json_lines_is_read_right_or_set_aside(rows: list[Any], bom: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news.jsonl"
        lines = [json.dumps(dict(zip(("headline", "date", "who"), row, strict=True))) for row in rows]
        path.write_bytes(b"\xef\xbb\xbf" * bom + "\n".join(lines).encode())
        found = read(path, human_label="who")
    event("refused" if found is None else "read")
    if found is not None:
        check(
            found,
            [
                row if isinstance(row[0], str) and isinstance(row[2], str | None) else ("", "", "")
                for row in rows
            ],
        )


@given(
    rows=st.lists(st.tuples(TEXTS, TIMES, LABELS), min_size=1, max_size=8),
    damage=st.lists(
        st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4
    ),
)
@bounded(100)
def test_broken_bytes_spoil_no_row_after_the_next_line_end(
    rows: list[Any], damage: list[tuple[float, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news.csv"
        header, _, data = csv_bytes(rows, "utf-8").partition(b"\r\n")
        for place, piece in damage:
            at = round(place * len(data))
            data = data[:at] + piece + data[at:]
        tail = b"".join(b"Tail %d,2024-03-01,\n" % number for number in range(200))
        path.write_bytes(header + b"\n" + data + b"\n" + tail)
        found = read(path, human_label="who")
    assert found is not None
    headlines, aside, counts = found
    assert counts["used"] == len(headlines) and counts["quarantined"] == len(aside)
    assert [headline.text for headline in headlines][-150:] == [f"Tail {number}" for number in range(50, 200)]
    assert not any("\ud800" <= c <= "\udfff" for h in headlines for c in h.text + (h.human_label or ""))


ARROWS = [
    pa.timestamp("s"),
    pa.timestamp("ms", "UTC"),
    pa.timestamp("us"),
    pa.timestamp("ns", "Europe/Berlin"),
    pa.date32(),
    pa.date64(),
    pa.string(),
    pa.int64(),
]


@given(
    texts=st.lists(st.one_of(st.none(), _LETTERS), min_size=1, max_size=6),
    kind=st.sampled_from(ARROWS),
    numbers=st.lists(st.integers(-(2**40), 2**40), min_size=6, max_size=6),
)
@bounded(60)
def test_each_row_of_a_parquet_file_is_read_right_or_set_aside(
    texts: list[Any], kind: Any, numbers: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news.parquet"
        values = numbers[: len(texts)]
        dates = pa.array([str(v) for v in values]) if kind == pa.string() else pa.array(values, pa.int64())
        if pa.types.is_date32(kind):
            dates = pa.array([v % 2**31 for v in values], pa.int32())
        table = pa.table(
            {
                "headline": pa.array(texts, pa.string()),
                "date": dates.cast(kind) if kind != pa.string() else dates,
            }
        )
        pq.write_table(table, path)
        found = read(path)
    event(f"{kind}: {'refused' if found is None else 'read'}")
    if found is None:
        return
    headlines, aside, counts = found
    assert counts.total() == len(texts) == len(headlines) + len(aside)
    assert {h.line for h in headlines} | {entry["line"] for entry in aside} == set(range(1, len(texts) + 1))
    assert all(h.text == clean_text(texts[h.line - 1]) for h in headlines)
