"""The records that benchmarks of store, ingest and curate work on: the demo's headlines as a log has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from flywheel.demo.headlines import DemoHeadline
from flywheel.workloads.records import Record, make_record
from flywheel.workloads.workload import Workload

CLIENT = "benchmark"


def log_records(headlines: Iterable[DemoHeadline]) -> Iterator[Record]:
    """Make a log record of each headline with the news workload's prompt, 5 KB each."""
    workload = Workload.load("include/workloads/news_classifier.yaml")
    for headline in headlines:
        yield make_record(
            workload_id=workload.id,
            client_id=CLIENT,
            timestamp=int(datetime.fromisoformat(headline.timestamp).timestamp()),
            model="teacher",
            messages=workload.messages(headline.text),
            answer=workload.answer_for(headline.teacher_label),
            label=headline.teacher_label,
        )
