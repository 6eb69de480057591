"""The event study from made headlines to a page: `python -m examples.event_study [FOLDER]`."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from examples.event_study.made import DEALS, END, MERGERS, START, TRUTH, Item, day_of, headlines, prices
from examples.event_study.page import write_page
from examples.event_study.study import Response, response
from examples.wheel import backfill, folder_of, tell
from flywheel.annotation.checking import check
from flywheel.annotation.work import finish_work, plan_work, run_here
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.loading import validate_config
from flywheel.promotion.timeline import Timeline
from flywheel.workloads.records import make_record
from flywheel.workloads.workload import Workload

COUNT = 4000
NIGHTS = tuple(datetime(2024, month, 1, 2, tzinfo=UTC) for month in (3, 6, 9))
TODAY = datetime(2025, 1, 1, 2, tzinfo=UTC)


def main(folder: Path, page: Path, count: int = COUNT) -> tuple[Response, Response]:
    """Write the page; return what mergers do by labels point in time, and by today's champion's."""
    items = headlines(count)
    _write(folder, items)
    workload = Workload.load("include/workloads/news_classifier.yaml")
    if not Timeline(ArtifactRoot(str(folder / "artifacts")), workload.id, "desk").names():
        backfill(_config(folder), NIGHTS)
        backfill(_config(folder), [TODAY], in_force=True)
    rows, facts = _labelled(folder, "point_in_time")
    ahead, more = _labelled(folder, "champion")
    company = {
        (item.text, int(datetime.fromisoformat(item.when).timestamp())): item.company for item in items
    }
    returns = prices(items)

    def around(frame: pd.DataFrame, label: str, before: Any = END) -> Response:
        chosen = frame[(frame["label"] == label) & (frame["published"] < pd.Timestamp(before, tz="UTC"))]
        seconds = chosen["published"].map(lambda when: int(when.timestamp()))
        companies = [company[pair] for pair in zip(chosen["text"], seconds, strict=True)]
        days = [day_of(when.isoformat()) for when in chosen["published"]]
        return response(returns, np.array(companies, np.int64), np.array(days, np.int64))

    by_class = {label: around(rows, label) for label in TRUTH}
    honest, fooled = around(rows, MERGERS, DEALS), around(ahead, MERGERS, DEALS)
    made = write_page(page, by_class, honest, fooled, [*facts, *more])
    tell(
        f"look-ahead: {fooled.later[0]:+.2f} % in ten days; point in time: {honest.later[0]:+.2f} %; truth: 0"
    )
    tell(f"{made}")
    return honest, fooled


def _labelled(folder: Path, mode: str) -> tuple[pd.DataFrame, list[str]]:
    """Label the year; return its rows, and what is proved of them."""
    config = validate_config({**_config(folder), **_annotation(folder, mode)}, "the example")
    start = datetime(START.year, START.month, START.day, tzinfo=UTC)
    work = plan_work(config, start, datetime(END.year, END.month, END.day, tzinfo=UTC))
    run_here(work)
    manifest = finish_work(work)
    found = {one.what.partition(":")[0]: one for one in check(config, work.out, scratch=folder)}
    ahead = found["records"]
    failed = sum(one.state == "FAILED" for one in found.values())
    if mode == "point_in_time":
        fact = (
            f"Point in time: {manifest.labelled:,} of {manifest.rows:,} texts have a label, by "
            f"{len(manifest.champions)} champions; the checker looked at {ahead.checked:,} labels, 0 of them "
            f"ahead, {failed} checks failed."
        )
    else:
        before = ahead.detail.partition(", the first")[0]
        fact = (
            f"Look-ahead: today's champion labelled all {manifest.rows:,} texts, {before} of them of before "
            "what it has read."
        )
    return pd.read_parquet(f"{work.out}/rows"), [fact]


def _config(folder: Path) -> dict[str, Any]:
    return {
        "client_id": "desk",
        "workload": "include/workloads/news_classifier.yaml",
        "source": [{"path": str(folder / "records.jsonl"), "kind": "log_records"}],
        "nims": [{"model_name": "tfidf", "name": "linear", "family": "linear", "gpus": 0}],
        "sizes": [100_000],
        # The newest records: a desk that wants today's news labelled well does not learn from last spring's.
        "data_split_config": {"limit": 1500, "eval_size": 300, "val_ratio": 0.05, "min_total_records": 100},
        "promotion": {"within": 0.9, "min_eval": 1},
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "mlflow_config": {
            "tracking_uri": f"sqlite:///{folder.parent}/mlflow.db",
            "artifact_location": str(folder.parent / "mlruns"),
        },
    }


def _annotation(folder: Path, mode: str) -> dict[str, Any]:
    return {"source": [{"path": str(folder / "headlines.csv")}], "annotation": {"mode": mode}}


def _write(folder: Path, items: list[Item]) -> None:
    """Write the headlines, and the teacher's answers to them as an application logs them."""
    workload = Workload.load("include/workloads/news_classifier.yaml")
    with (
        (folder / "headlines.csv").open("w", newline="") as texts,
        (folder / "records.jsonl").open("wb") as log,
    ):
        writer = csv.writer(texts)
        writer.writerow(["headline", "date"])
        for item in items:
            writer.writerow([item.text, item.when])
            record = make_record(
                workload_id=workload.id,
                client_id="desk",
                timestamp=int(datetime.fromisoformat(item.when).timestamp()),
                model="teacher",
                messages=workload.messages(item.text),
                answer=workload.answer_for(item.label),
                label=item.label,
            )
            log.write(orjson.dumps(record.to_json(), option=orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    place = folder_of("event_study")
    main(place, Path(sys.argv[2]) if len(sys.argv) > 2 else place / "page")
