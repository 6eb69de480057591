"""Rows and files that cannot be read: set aside with their reason, or an error that names them."""

import gzip
from pathlib import Path

import pytest

from flywheel.common.errors import SourceError
from tests.unit.test_sources import GOOD_ROW, HEADER, read_bytes

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
