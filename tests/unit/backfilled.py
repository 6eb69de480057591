"""Backfilled nights of a linear student over the demo's headlines, each by the real stages and jobs."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson

from flywheel.demo.headlines import generate
from flywheel.workloads.records import make_record
from flywheel.workloads.workload import Workload
from tests.unit.kept_in import kept_in

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
START, END = date(2024, 1, 1), date(2024, 4, 1)
NIGHTS = (datetime(2024, 1, 16, 2, tzinfo=UTC), datetime(2024, 3, 1, 2, tzinfo=UTC))
LINEAR = {"model_name": "tfidf", "name": "linear", "family": "linear", "gpus": 0}


def write_demo(folder: Path, count: int) -> None:
    """Write headlines.csv, and records.jsonl with the teacher's answers to them."""
    write_rows(
        folder,
        (
            (item.text, item.timestamp, item.teacher_label)
            for item in generate(count, seed=9, start=START, end=END)
        ),
    )


def write_rows(folder: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write headlines.csv and records.jsonl of (text, ISO time, the teacher's label)."""
    with (
        (folder / "headlines.csv").open("w", newline="") as texts,
        (folder / "records.jsonl").open("wb") as log,
    ):
        writer = csv.writer(texts)
        writer.writerow(["headline", "date"])
        for text, when, label in rows:
            writer.writerow([text, when])
            record = make_record(
                workload_id=WORKLOAD.id,
                client_id="desk",
                timestamp=int(datetime.fromisoformat(when).timestamp()),
                model="teacher",
                messages=WORKLOAD.messages(text),
                answer=WORKLOAD.answer_for(label),
                label=label,
            )
            log.write(orjson.dumps(record.to_json(), option=orjson.OPT_APPEND_NEWLINE))


def night_config(folder: Path, **sections: Any) -> dict[str, Any]:
    """Return the config of the nights: the records are there, the teacher is not asked."""
    return {
        "client_id": "desk",
        "workload": "include/workloads/news_classifier.yaml",
        "source": [{"path": str(folder / "records.jsonl"), "kind": "log_records"}],
        "nims": [LINEAR],
        "sizes": [100_000],
        "data_split_config": {
            "split": "temporal",
            "eval_size": 60,
            "val_ratio": 0.05,
            "calibration_ratio": 0.1,
            "min_total_records": 50,
        },
        "promotion": {"within": 0.95, "min_eval": 1},
        **kept_in(folder),
        **sections,
    }


def annotate_config(folder: Path, **annotation: Any) -> dict[str, Any]:
    """Return the config that the headlines are labelled with."""
    return {
        **night_config(folder),
        "source": [{"path": str(folder / "headlines.csv")}],
        "annotation": annotation,
    }
