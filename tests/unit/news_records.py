"""Log records of the news workload, and plans over them, for tests of the store and the stages around it."""

import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flywheel.config.loading import validate_config
from flywheel.runs.plan import Plan, make_plan
from flywheel.workloads.records import LabelledBy, Record, make_record
from flywheel.workloads.workload import Workload

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")


def news_record(
    text: str,
    label: str | None = None,
    timestamp: int = 1000,
    *,
    client_id: str = "desk",
    workload_id: str = "news_classifier",
    messages: list[dict[str, Any]] | None = None,
    known_at: int | None = None,
    labelled_by: LabelledBy | None = None,
) -> Record:
    """Return a record; without a label one of two classes by its text, so that an eval set can tell."""
    label = label or ("OTHER", "Earnings")[zlib.crc32(text.encode()) % 2]
    return make_record(
        workload_id=workload_id,
        client_id=client_id,
        timestamp=timestamp,
        model="teacher",
        messages=messages or WORKLOAD.messages(text),
        answer=WORKLOAD.answer_for(label),
        label=label,
        known_at=known_at,
        labelled_by=labelled_by or ("application" if messages else "teacher"),
    )


def news_plan(
    folder: Path, *, cutoff: int = 1 << 32, sizes: tuple[int, ...] = (5,), source: Any = (), **split: Any
) -> Plan:
    data = {
        "client_id": "desk",
        "nims": [{"model_name": "test/1b"}],
        "sizes": sizes,
        "source": source,
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "data_split_config": {"eval_size": 10, "min_total_records": 1, **split},
    }
    return make_plan(
        validate_config(data, "test"),
        run_id="night",
        cutoff=datetime.fromtimestamp(cutoff, UTC),
        workload_id="news_classifier",
        client_id="desk",
    )
