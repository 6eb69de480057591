"""The log records of an application that already calls the teacher: they need no labelling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from flywheel.config.schema import SourceConfig
from flywheel.errors import RecordError
from flywheel.quarantine import Quarantine
from flywheel.records import Record
from flywheel.sources.files import files_of
from flywheel.sources.rows import json_rows
from flywheel.workload import Workload


def read_log_records(
    source: SourceConfig,
    quarantine: Quarantine,
    workload: Workload,
    *,
    workload_id: str | None = None,
    key: str = "source",
    before: int | None = None,
    counts: Counter[str] | None = None,
) -> Iterator[Record]:
    """Yield the valid log records of a source of kind `log_records`: JSON lines, one record a line.

    Args:
        workload: its classes and aliases read the answers.
        workload_id: whose records to take, default the workload's; a log may hold those of others as well,
            which are passed over.
        before: unix seconds; records from then on are left for later runs.
        counts: counts lines by what became of them: `used`, `later`, `other_workload`, `quarantined`.

    Raises:
        SourceError: no such file, or an unreadable one.
    """
    counts = Counter() if counts is None else counts
    workload_id = workload_id or workload.id
    for file in files_of(source, key):
        with file.open() as opened:
            for row in json_rows(opened):
                reason = row.problem
                if not reason:
                    other = row.values.get("workload_id")
                    if isinstance(other, str) and other.strip() and other != workload_id:
                        counts["other_workload"] += 1
                        continue
                    try:
                        origin = file.name, row.line
                        record = Record.from_json(row.values, workload.classes, workload.aliases, origin)
                    except RecordError as error:
                        reason = str(error)
                if reason:
                    counts["quarantined"] += 1
                    quarantine.add(file.name, row.line, reason, row.raw)
                elif before is not None and record.timestamp >= before:
                    counts["later"] += 1
                else:
                    counts["used"] += 1
                    yield record
