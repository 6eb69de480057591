"""The rows of a file, one at a time: CSV, JSON lines and Parquet read alike.

A row that cannot be read is yielded too, with its problem, so that the caller can set it aside.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from flywheel.common import exact_json
from flywheel.common.errors import SourceError
from flywheel.sources.files import Line, SourceFile, lines_of, missing_column

# A CSV row with more lines or characters than this has lost a closing quote.
MAX_ROW_LINES = 100
MAX_ROW_CHARACTERS = 1_000_000
_DELIMITERS = ",;\t|"
_PARQUET_ROWS = 1024
# Rows of JSON that may lack a column before it is taken for missing altogether.
_ROWS_BEFORE_MISSING = 100


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of a file.

    Attributes:
        line: the number of its first line, from 1; of a Parquet file, the number of the row.
        values: by column; empty if there is a problem.
        problem: why it cannot be used; empty if it can.
        read: what was read, as it is or decoded.
    """

    line: int
    values: dict[str, Any]
    problem: str = ""
    read: bytes | str = ""

    @property
    def raw(self) -> str:
        """What was read, for the quarantine: its beginning."""
        if isinstance(self.read, str):
            return self.read
        return self.read[:4000].decode("utf-8", "backslashreplace").rstrip("\r\n")


def rows_of(file: SourceFile, columns: dict[str, str]) -> Iterator[SourceRow]:
    """Yield the rows of a file.

    Args:
        columns: the columns to read, each with the key of the configuration that names it.

    Raises:
        SourceError: the file cannot be read, or does not have one of the columns.
    """
    with file.open() as opened:
        yield from rows_in(file, opened, columns)


def rows_in(file: SourceFile, opened: BinaryIO, columns: dict[str, str]) -> Iterator[SourceRow]:
    """Yield the rows of an opened file; see `rows_of`."""
    if file.format == "csv":
        yield from _csv_rows(file, opened, columns)
    elif file.format == "jsonl":
        yield from _checked_json_rows(file, opened, columns)
    else:
        yield from parquet_rows(file, opened, columns)


def json_rows(opened: BinaryIO, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
    """Yield the objects of a JSON-lines file.

    Args:
        columns: the keys that are wanted; what others hold does not matter. None: all must be held exactly,
            at any depth (see `flywheel.common.exact_json`).
    """
    for line in lines_of(opened):
        if line.problem:
            yield SourceRow(line.number, {}, line.problem, line.data)
            continue
        if not line.data.strip():
            yield SourceRow(line.number, {}, "blank line", line.data)
            continue
        try:
            values = exact_json.loads(line.data) if columns is None else _loads(line.data, columns)
        except ValueError as error:
            yield SourceRow(line.number, {}, str(error), line.data)
            continue
        if isinstance(values, dict):
            yield SourceRow(line.number, values, "", line.data)
        else:
            yield SourceRow(line.number, {}, f"not a JSON object: got {type(values).__name__}", line.data)


def _loads(data: bytes, columns: Collection[str]) -> Any:
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    twice = exact_json.repeated_key(data, columns) if isinstance(values, dict) else None
    if twice is not None:
        raise ValueError(f"a key that is there twice: {twice!r}")
    return values


def _checked_json_rows(file: SourceFile, opened: BinaryIO, columns: dict[str, str]) -> Iterator[SourceRow]:
    seen: set[str] = set()
    names: dict[str, None] = {}
    objects = 0
    for row in json_rows(opened, columns):
        if not row.problem:
            objects += 1
            seen.update(column for column in columns if column in row.values)
            if len(names) < 100:
                names.update(dict.fromkeys(row.values))
            if objects == _ROWS_BEFORE_MISSING:
                _check_columns(file, columns, seen, list(names))
        yield row
    if objects:
        _check_columns(file, columns, seen, list(names))


def _check_columns(file: SourceFile, columns: dict[str, str], seen: set[str], names: Sequence[str]) -> None:
    for column, key in columns.items():
        if column not in seen:
            raise missing_column(file, column, list(names), key)


class _UnclosedQuoteError(Exception):
    """A row runs on for too long."""


class _CsvLines:
    """Feeds a csv.reader, and can give it lines again when a row that they made was bad."""

    def __init__(self, opened: BinaryIO) -> None:
        self._source = lines_of(opened)
        self._again: deque[Line] = deque()
        self.taken: list[Line] = []
        self._characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.taken and (len(self.taken) >= MAX_ROW_LINES or self._characters > MAX_ROW_CHARACTERS):
            raise _UnclosedQuoteError
        line = self._again.popleft() if self._again else next(self._source)
        if line.problem and self.taken:
            self._again.appendleft(line)
            raise _UnclosedQuoteError
        self.taken.append(line)
        self._characters += len(line.data)
        # Bytes that are not UTF-8 become lone surrogates here and are found again in the values.
        return "" if line.problem else line.data.decode("utf-8", "surrogateescape")

    def start_row(self) -> None:
        self.taken, self._characters = [], 0

    def give_back_all_but_first(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def raw(self) -> str:
        return (
            b"".join(line.data for line in self.taken)[:4000]
            .decode("utf-8", "backslashreplace")
            .rstrip("\r\n")
        )


def _csv_rows(file: SourceFile, opened: BinaryIO, columns: dict[str, str]) -> Iterator[SourceRow]:
    lines = _CsvLines(opened)
    header, delimiter = _csv_header(file, lines, columns)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start_row()
        problem = ""
        values: list[str] = []
        try:
            values = next(reader)
        except StopIteration:
            return
        except _UnclosedQuoteError:
            problem = "a quote that is not closed"
        except csv.Error as error:
            problem = f"not valid CSV: {error}"
            if "unexpected end" in str(error):
                problem = "a quote that is not closed"
        number = lines.taken[0].number
        if lines.taken[0].problem:
            problem = lines.taken[0].problem
        elif not problem and not any(value.strip() for value in values):
            problem = "blank line"
        elif not problem and len(values) != len(header):
            problem = f"wrong number of columns: {len(values)}, the header has {len(header)}"
        if problem:
            # A quote that is not closed swallows the rows after it: set its own line aside, read those again.
            if len(lines.taken) > 1:
                lines.give_back_all_but_first()
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
            yield SourceRow(number, {}, problem, lines.raw())
        else:
            yield SourceRow(number, dict(zip(header, values, strict=True)), "", "")


def _csv_header(file: SourceFile, lines: _CsvLines, columns: dict[str, str]) -> tuple[list[str], str]:
    """Return the names of the columns, and the delimiter with which the wanted ones are among them."""
    try:
        first = next(lines)
    except StopIteration:
        raise file.error("is empty; expected a header line with the names of the columns") from None
    except _UnclosedQuoteError:
        raise file.error("has a first line that is too long for a header") from None
    if "\x00" in first or any("\udc80" <= character <= "\udcff" for character in first):
        raise file.error("is not UTF-8 text (UTF-16, or not a CSV file?); save it as UTF-8")
    headers: list[tuple[list[str], str]] = []
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise file.error(f"line 1: the header is not valid CSV: {error}") from None
        headers.append(([name.strip() for name in names], delimiter))
    best = max(headers, key=lambda header: sum(column in header[0] for column in columns))
    names = best[0]
    for column, key in columns.items():
        if column not in names:
            raise missing_column(file, column, names, key)
        if names.count(column) > 1:
            raise file.error(f"line 1: the column {column!r} is there {names.count(column)} times", key)
    return best


def parquet_rows(file: SourceFile, opened: BinaryIO, columns: dict[str, str]) -> Iterator[SourceRow]:
    """Yield the rows of a Parquet file, reading a part of a row group at a time."""
    # Imported here: only the orchestrator has it, and only Parquet needs it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(opened, pre_buffer=False)
        _check_columns(file, columns, set(parquet.schema_arrow.names), parquet.schema_arrow.names)
        number = 0
        for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS, columns=list(columns)):
            values = [_column_values(batch.column(name)) for name in columns]
            for row in zip(*values, strict=True):
                number += 1
                bad = next((value for value in row if isinstance(value, _BadValue)), None)
                if bad is not None:
                    yield SourceRow(number, {}, bad.problem, bad.raw)
                else:
                    yield SourceRow(number, dict(zip(columns, row, strict=True)), "", "")
    except SourceError:
        raise
    except pa.ArrowException as error:
        raise file.error(f"is not a readable Parquet file: {error}") from error


@dataclass(frozen=True, slots=True)
class _BadValue:
    problem: str
    raw: str


def _column_values(column: Any) -> list[Any]:
    """Return a column as Python values; nanoseconds are cut to microseconds, which datetime can hold."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    try:
        return list(column.to_pylist())
    except (UnicodeDecodeError, ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return _BadValue("not valid UTF-8", error.object[:4000].decode("utf-8", "backslashreplace"))
    except (ValueError, OverflowError) as error:
        return _BadValue(f"a value out of range: {error}", "")
