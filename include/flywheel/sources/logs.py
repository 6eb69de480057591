"""The log records of an application that already calls the teacher: they need no labelling.

They come as JSON lines, or as rows of a Parquet file with the columns of COLUMNS. There `request` and
`response` are structs, or the JSON of them as text, and `timestamp` may be a date-time. A struct has all
fields of its type in each row: one that is null is taken for one that is not there.

A `timestamp` is unix seconds; milli-, micro- and nanoseconds and times as texts are understood as those of
headlines are (`flywheel.sources.timestamps`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import orjson

from flywheel.common import exact_json
from flywheel.common.errors import RecordError
from flywheel.config.evaluation import WorkloadType
from flywheel.config.source import SourceConfig
from flywheel.sources.files import SourceFile, files_of
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.rows import SourceRow, json_rows, parquet_rows
from flywheel.sources.spans import Span
from flywheel.sources.time_column import TimeColumn
from flywheel.sources.timestamps import TimeReader
from flywheel.workloads.records import Record, check_no_student
from flywheel.workloads.workload import Workload

COLUMNS = ("request", "response", "workload_id", "client_id", "timestamp")
_OBJECTS = ("request", "response")


def read_log_records(
    source: SourceConfig,
    quarantine: Quarantine,
    workload: Workload,
    *,
    workload_id: str | None = None,
    workload_type: WorkloadType = "auto",
    parse_arguments: bool = True,
    key: str = "source",
    before: int | None = None,
    counts: Counter[str] | None = None,
    students: Collection[str] = (),
    labelled: bool = False,
    span: Span | None = None,
) -> Iterator[Record]:
    """Yield the valid log records of a source of kind `log_records`: one record a line or row.

    Args:
        workload: its classes and aliases read the answers.
        workload_id: whose records to take, default the workload's; a log may hold those of others as well,
            which are passed over.
        workload_type, parse_arguments: what their answers may be; see `Record.from_json`.
        before: unix seconds; records that are not known before are left for later runs.
        counts: counts lines by what became of them: `used`, `later`, `other_workload`, `quarantined`.
        students: names of models whose answers are set aside; see `check_no_student`.
        labelled: the file is the stage `label`'s: its lines say when they are known, and the teacher labelled
            them. Nobody else's lines are believed that.
        span: takes note of the times.

    Raises:
        SourceError: no such file, an unreadable one, or one of Parquet that lacks a column.
    """
    counts = Counter() if counts is None else counts
    workload_id = workload_id or workload.id
    reader = TimeReader(ZoneInfo(source.time_zone), source.time_format, is_unix=True)
    for file in files_of(source, key):
        times = TimeColumn(file, "timestamp", reader, key)
        with file.open() as opened:
            for row in log_rows(file, opened):
                reason = row.problem
                if not reason:
                    other = row.values.get("workload_id")
                    if isinstance(other, str) and other.strip() and other != workload_id:
                        counts["other_workload"] += 1
                        continue
                    try:
                        origin = file.name, row.line
                        known = _as_labelled(row) if labelled else _known(row, times)
                        record = Record.from_json(
                            row.values,
                            workload.classes,
                            workload.aliases,
                            origin,
                            workload_type=workload_type,
                            parse_arguments=parse_arguments,
                            **known,
                        )
                        if record.known_at is None:
                            raise RecordError("timestamp: 0 is no time; a record without one is never used")
                        if not labelled:
                            check_no_student(record, students)
                            record = replace(record, known_at=record.known_at + source.known_after)
                    except RecordError as error:
                        reason = str(error)
                if reason:
                    counts["quarantined"] += 1
                    quarantine.add(file.name, row.line, reason, row.raw)
                    continue
                is_later = before is not None and (record.known_at or 0) >= before
                if span is not None:
                    span.add(record.timestamp, is_later)
                counts["later" if is_later else "used"] += 1
                if not is_later:
                    yield record
        times.check()


def _as_labelled(row: SourceRow) -> dict[str, Any]:
    """Return when a record of the stage `label` is known, as it says itself, and by whom it was labelled."""
    return {"known_at": row.values.get("known_at"), "labelled_by": "teacher"}


def _known(row: SourceRow, times: TimeColumn) -> dict[str, Any]:
    """Put a record's time as unix seconds into its row, and return when it is known."""
    try:
        time = times.read(row.values.get("timestamp"), row.line)
    except ValueError as error:
        raise RecordError(f"timestamp: {error}") from None
    row.values["timestamp"] = time.timestamp
    return {"known_at": time.known_at if time.known_at else None}


def log_rows(file: SourceFile, opened: BinaryIO) -> Iterator[SourceRow]:
    """Yield the rows of an opened log, those of Parquet with the values that JSON has."""
    if file.format == "jsonl":
        yield from json_rows(opened)
        return
    for row in parquet_rows(file, opened, dict.fromkeys(COLUMNS, file.key)):
        yield row if row.problem else _of_parquet(row)


def _of_parquet(row: SourceRow) -> SourceRow:
    """Return a row with the values that a line of JSON has."""
    values = {name: _without_nulls(value) for name, value in row.values.items()}
    try:
        read = orjson.dumps(values)
    except TypeError as error:  # bytes, decimals, and what else JSON has not
        return SourceRow(row.line, {}, f"cannot be kept as JSON: {error}", orjson.dumps(values, default=repr))
    for name in _OBJECTS:
        if isinstance(values[name], str):
            try:
                values[name] = exact_json.loads(values[name])
            except ValueError as error:
                return SourceRow(row.line, {}, f"{name}: {error}", read)
    return SourceRow(row.line, values, "", read)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
