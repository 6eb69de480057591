"""A year of real headlines, labelled point in time and by today's champion: proof, agreement, look-ahead.

    python -m benchmarks.history_real [--quick] [--limit 8000]

Twelve backfilled nights, on the first of each month from August 2019 on (FLYWHEEL_SHARED_DATA, default
../shared/data), each with TF-IDF and logistic regression on the newest records before it (`--limit`),
`promotion.of: best`; by the rules a night whose candidate is not shown to be better keeps its champion. Then
one night of August 2020, in force. All headlines of the year are labelled by both, `check` proves both, and
`agreement` is the share of labels that are the teacher's (a stand-in's, see the data's README), by month.
`ours` is that of point in time, `peer` that of today's champion, who has seen many of these very texts;
`lookahead` is their difference on the texts that both labelled, its interval a paired bootstrap over days.
`plants`: which checks find a planted row, a tampered manifest (with digests that fit) and a shifted clock.
--quick: three months.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from examples.wheel import backfill
from flywheel.annotation.checking import check
from flywheel.annotation.manifest import digest_of
from flywheel.annotation.work import finish_work, plan_work, run_here
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.loading import validate_config
from flywheel.promotion.timeline import Timeline
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.records import make_record
from tests.unit.annotation_plants import change_rows, seal_again
from tests.unit.backfilled import WORKLOAD, night_config

PROJECT = Path(__file__).resolve().parents[1]
NIGHTS = [datetime(2019 + (7 + n) // 12, (7 + n) % 12 + 1, 1, 2, tzinfo=UTC) for n in range(12)]
TODAY = datetime(2020, 8, 1, 2, tzinfo=UTC)
DRAWS = 1000


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--limit", type=int, default=8000, help="records of a night, the newest")
    arguments = parser.parse_args()
    started = time.monotonic()
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory(prefix="benchmark-history-") as folder:
        found = _measure(Path(folder), arguments.limit, NIGHTS[:3] if arguments.quick else NIGHTS)
    print(json.dumps({**found, "seconds": round(time.monotonic() - started, 1)}))


def _measure(folder: Path, limit: int, nights: list[datetime]) -> dict[str, Any]:
    teacher = _prepare(folder)
    config = {
        **night_config(folder, source=[]),
        "data_split_config": {
            "split": "temporal",
            "limit": limit,
            "eval_size": 600,
            "val_ratio": 0.02,
            "calibration_ratio": 0.05,
        },
        "promotion": {"of": "best", "within": 0.02, "min_eval": 1, "error_rate": 0.2},
    }
    backfill(config, nights)
    backfill(config, [TODAY], in_force=True)
    start = nights[0].replace(hour=0)
    end = (nights[-1] + timedelta(days=31)).replace(day=1, hour=0)
    frames, proofs, champions = {}, {}, {}
    for mode in ("point_in_time", "champion"):
        source = [{"path": str(folder / "headlines.csv"), "columns": {"timestamp": "date"}}]
        one = validate_config({**config, "source": source, "annotation": {"mode": mode}}, "benchmark")
        work = plan_work(one, start, end)
        run_here(work)
        champions[mode] = len(finish_work(work).champions)
        proofs[mode] = [finding.line() for finding in check(one, work.out, scratch=folder)]
        frames[mode] = pd.read_parquet(f"{work.out}/rows", columns=["id", "text", "published", "label"])
    both = frames["point_in_time"].merge(
        frames["champion"][["id", "label"]], on="id", suffixes=("", "_today")
    )
    both = both.dropna(subset=["label"])
    both["right"] = both["label"] == both["text"].map(teacher)
    both["right_today"] = both["label_today"] == both["text"].map(teacher)
    both["gain"] = both["right_today"].astype(float) - both["right"].astype(float)
    months = {
        name: {
            "texts": len(rows),
            "point_in_time": round(rows["right"].mean(), 4),
            "today": round(rows["right_today"].mean(), 4),
            "lookahead": _interval(rows),
        }
        for name, rows in both.groupby(both["published"].dt.strftime("%Y-%m"))
    }
    ours, peer = float(both["right"].mean()), float(both["right_today"].mean())
    return {
        "name": "history_real",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 4),
        "unit": "agreement with the teacher's stand-in",
        "texts": len(frames["point_in_time"]),
        "labelled": len(both),
        "champions": champions["point_in_time"],
        "lookahead": _interval(both),
        "months": months,
        "proofs": proofs,
        "plants": _plants(folder, config, start, end),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def _plants(folder: Path, config: dict[str, Any], start: datetime, end: datetime) -> dict[str, list[str]]:
    """Return what finds a planted row, a tampered manifest and a shifted clock, whose digests all fit."""
    source = {"path": str(folder / "headlines.csv"), "columns": {"timestamp": "date"}}
    out = {"annotation": {"out": str(folder / "planted")}}
    honest = validate_config({**config, "source": [source], **out}, "benchmark")
    shifted = validate_config({**config, "source": [{**source, "known_after": 86_400}], **out}, "benchmark")
    work = plan_work(honest, start, end)
    run_here(work)
    finish_work(work)
    root = ArtifactRoot(honest.artifacts.root)
    today = Timeline(root, WORKLOAD.id, "desk").champion_at(1 << 40)
    assert today is not None

    def found(by: Any = honest) -> list[str]:
        return [one.what for one in check(by, work.out, scratch=folder) if one.state == "FAILED"]

    manifest = Path(work.out) / "manifest.json"
    whole = manifest.read_bytes()
    plants = {"nothing": found(), "shifted clock": found(shifted)}
    content = json.loads(whole)
    content["lag"] = 1
    manifest.write_text(json.dumps({**content, "digest": digest_of(content)}))
    plants["tampered manifest"] = found()
    manifest.write_bytes(whole)
    first = min(content["files"])
    change_rows(work.out, first, lambda row: row.update(adapter=today.adapter))
    seal_again(honest, work.out)
    return {**plants, "planted row": found()}


def _prepare(folder: Path) -> dict[str, str]:
    """Write the headlines, and the teacher's answers into the store; return the label of each text."""
    data = Path(os.environ.get("FLYWHEEL_SHARED_DATA") or PROJECT.parent / "shared/data")
    with gzip.open(data / "headlines.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "headlines.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["headline", "date"])
        writer.writerows([row["headline"], row["date"]] for row in rows)
    with SqliteStore(folder / "records.sqlite") as store:
        store.write(_record(row) for row in rows)
    return {" ".join(row["headline"].split()): row["teacher_label"] for row in rows}


def _record(row: dict[str, str]) -> Any:
    day = int(datetime.fromisoformat(row["date"]).replace(tzinfo=UTC).timestamp())
    text = " ".join(row["headline"].split())
    return make_record(
        workload_id=WORKLOAD.id,
        client_id="desk",
        timestamp=day,
        model="teacher",
        messages=WORKLOAD.messages(text),
        answer=WORKLOAD.answer_for(row["teacher_label"]),
        label=row["teacher_label"],
        known_at=day + 86_399,  # a date alone: when its day has ended
    )


def _interval(rows: pd.DataFrame) -> list[float]:
    """Return the mean gain of look-ahead and its 95 % interval, days drawn with all their texts."""
    days = rows.groupby(rows["published"].dt.date)["gain"].agg(["sum", "count"]).to_numpy()
    rng = np.random.default_rng(0)
    drawn = days[rng.integers(0, len(days), (DRAWS, len(days)))].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return [round(float(one), 4) for one in (rows["gain"].mean(), low, high)]


if __name__ == "__main__":
    main()
