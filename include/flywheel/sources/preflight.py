"""Look at a source before anything is paid for: every file is opened, and its first rows are read.

What is compressed or in an archive is read to its end, for there damage shows at the end alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO
from zoneinfo import ZoneInfo

from flywheel.config.source import SourceConfig
from flywheel.sources.files import SourceFile, files_of
from flywheel.sources.headlines import Headline, columns_of, headline_of
from flywheel.sources.logs import log_rows
from flywheel.sources.rows import SourceRow, rows_in
from flywheel.sources.spans import SourceSpan, Span
from flywheel.sources.time_column import TimeColumn
from flywheel.sources.timestamps import TimeReader

# Of each file.
FIRST_ROWS = 1000
# A file of so many rows, of which none can be used, is a bad file; one of fewer may have bad rows alone.
LEAST_ROWS = 10
_BLOCK = 1 << 20
_KEYS = ("request", "response", "workload_id", "client_id")


@dataclass
class SourceLook:
    """What was seen of a source: `bad` of the first `rows` of its `files` cannot be used."""

    files: int
    rows: int
    bad: int
    first_problem: str
    span: SourceSpan


def check_sources(sources: Iterable[tuple[str, SourceConfig]]) -> None:
    """Look at sources, each with its key, such as `source.0`.

    Raises:
        SourceError: see `look_at`.
    """
    for key, source in sources:
        look_at(source, key)


def look_at(source: SourceConfig, key: str) -> SourceLook:
    """Open every file of a source and read its first rows.

    Raises:
        SourceError: there is none; one cannot be read, lacks a column, has times that are not understood, or
            not one row that can be used.
    """
    reader = TimeReader(ZoneInfo(source.time_zone), source.time_format, is_unix=source.kind == "log_records")
    files, span, rows, bad, first = files_of(source, key), Span(), 0, 0, ""
    for file in files:
        seen = unusable = 0
        why = ""
        with file.open() as opened:
            times = _times_of(file, source, key, reader)
            for line, found in islice(_found(file, opened, source, key, times), FIRST_ROWS):
                seen += 1
                if isinstance(found, str):
                    unusable += 1
                    why = why or f"{file.name}, line {line}: {found}"
                elif found:
                    span.add(found, False)
            if file.is_packed:
                _read_through(file, opened)
        if times is not None:
            times.check()
        if unusable == seen >= LEAST_ROWS:
            raise file.error(f"not one of the first {seen} rows can be used; the first: {why}", key)
        rows, bad, first = rows + seen, bad + unusable, first or why
    return SourceLook(len(files), rows, bad, first, span.of(key, source))


def _times_of(file: SourceFile, source: SourceConfig, key: str, reader: TimeReader) -> TimeColumn | None:
    column = "timestamp" if source.kind == "log_records" else source.columns.timestamp
    return None if column is None else TimeColumn(file, column, reader, key)


def _found(
    file: SourceFile, opened: BinaryIO, source: SourceConfig, key: str, times: TimeColumn | None
) -> Iterator[tuple[int, int | str]]:
    """Yield of each row its line and its time, 0 without any, or why it cannot be used."""
    if source.kind == "log_records":
        assert times is not None
        for row in log_rows(file, opened):
            yield row.line, _logged(row, times)
    else:
        for row in rows_in(file, opened, columns_of(source, key)):
            found = headline_of(row, source, times, file.name)
            yield row.line, found.timestamp if isinstance(found, Headline) else found


def _logged(row: SourceRow, times: TimeColumn) -> int | str:
    if row.problem:
        return row.problem
    if missing := [name for name in _KEYS if not row.values.get(name)]:
        return f"{missing[0]}: missing"
    try:
        return times.read(row.values.get("timestamp"), row.line).timestamp
    except ValueError as error:
        return f"timestamp: {error}"


def _read_through(file: SourceFile, opened: BinaryIO) -> None:
    if file.format == "parquet":
        opened.seek(0)
    while opened.read(_BLOCK):
        pass
