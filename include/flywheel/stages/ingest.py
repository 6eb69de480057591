"""Stage 2, ingest: labelled headlines and the log records of applications go into the store.

    in    labelled.jsonl.gz of the stage before; the config's sources of kind `log_records`
    out   records in the store, each once; ingest.quarantine.jsonl: what was set aside, and why;
          ingest.json: the result

Sources belong to the client that the config names: a run for another client reads none. Answers of the
config's students are set aside, as they never train.

Records are written in batches and have ids from their content, so a stage that was killed and runs again
gives the same store.
"""

from __future__ import annotations

import glob
import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.source import SourceConfig
from flywheel.runs.plan import Plan
from flywheel.sources import SourceSpan, SourceSpans, read_log_records
from flywheel.sources.quarantine import Quarantine
from flywheel.stages.label import LabelResult
from flywheel.stores import Rejected, open_store
from flywheel.workloads.records import Record

log = logging.getLogger(__name__)

QUARANTINE_FILE = "ingest.quarantine.jsonl"
RESULT_FILE = "ingest.json"
# Of the file that the stage before wrote: gzip makes no more of a byte than this.
_OWN_RATIO = 1100


class IngestResult(BaseModel):
    """What the stage gave: `read` = `written` + `already_there` + `quarantined`.

    Attributes:
        read: records before the cutoff, good and bad.
        written: new in the store.
        already_there: in the store before, or twice among those read.
        quarantined: set aside, in `quarantine_file`; `reasons` counts them by what is wrong.
        later: log records that are known at or after the cutoff, left for later runs.
        other_workload: log records of other workloads, passed over.
        quarantine_file: name of a JSONL file in the run's folder.
        sources: from when to when the records of each source of the config are.
        warnings: what speaks against these times.
        seconds: wall-clock time of the stage.
    """

    model_config = ConfigDict(frozen=True)

    read: int
    written: int
    already_there: int
    quarantined: int
    reasons: dict[str, int]
    later: int
    other_workload: int
    quarantine_file: str
    sources: tuple[SourceSpan, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float


def ingest(plan: Plan, folder: Path, labelled: LabelResult) -> IngestResult:
    """Write the records before the plan's cutoff into the store.

    Args:
        folder: of the run; has the labelled records, and takes the quarantine.
        labelled: what the stage before gave.

    Raises:
        SourceError: a source cannot be read at all.
        StoreError: the store cannot be used.
    """
    started = time.monotonic()
    workload = plan.workload
    counts: Counter[str] = Counter()
    spans = SourceSpans()
    with Quarantine(folder / QUARANTINE_FILE) as quarantine:
        with open_store(plan.config.store) as store:
            own, logs = _own_source(folder, labelled), _logs(plan)

            def records() -> Iterator[Record]:
                for key, source in [("labelled", own), *logs]:
                    yield from read_log_records(
                        source,
                        quarantine,
                        workload,
                        workload_id=plan.workload_id,
                        workload_type=plan.config.evaluation_config.workload_type,
                        parse_arguments=plan.config.data_split_config.parse_function_arguments,
                        key=key,
                        before=plan.cutoff,
                        counts=counts,
                        students=plan.student_names,
                        labelled=source is own,
                        span=None if source is own else spans.of(key, source),
                    )

            def set_aside(rejected: Rejected) -> None:
                file, line = rejected.origin or ("", None)
                quarantine.add(file, line, f"refused by the store: {rejected.reason}", rejected.raw)

            summary = store.write(records(), set_aside)
        quarantined, reasons = quarantine.count, dict(quarantine.reasons)
    result = IngestResult(
        read=counts["used"] + counts["quarantined"],
        written=summary.written,
        already_there=summary.already_there,
        quarantined=quarantined,
        reasons=reasons,
        later=counts["later"],
        other_workload=counts["other_workload"],
        quarantine_file=QUARANTINE_FILE,
        sources=spans.all(),
        warnings=spans.doubts(
            ArtifactRoot(plan.config.artifacts.root),
            (plan.workload_id, plan.client_id),
            plan.run_id,
            plan.cutoff,
        ),
        seconds=round(time.monotonic() - started, 3),
    )
    (folder / RESULT_FILE).write_bytes(
        orjson.dumps(result.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
    )
    if not plan.owns_sources and plan.config.source:
        log.info("the config's sources belong to the client %r: none was read", plan.config.client_id)
    if quarantined:
        worst = ", ".join(f"{kind} ({count})" for kind, count in Counter(reasons).most_common(3))
        log.warning("%d records set aside in %s: %s", quarantined, folder / QUARANTINE_FILE, worst)
    return result


def _own_source(folder: Path, labelled: LabelResult) -> SourceConfig:
    """Return what the stage before wrote, as a source."""
    # A file name is not a pattern, whatever characters its folder has.
    path = glob.escape(str(folder / labelled.records_file))
    return SourceConfig(path=path, kind="log_records", max_ratio=_OWN_RATIO)


def _logs(plan: Plan) -> list[tuple[str, SourceConfig]]:
    """Return the config's sources of log records with their keys; another client's run has none."""
    return [
        (f"source.{index}", source)
        for index, source in enumerate(plan.config.source)
        if source.kind == "log_records" and plan.owns_sources
    ]
