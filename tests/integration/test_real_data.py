"""The drill on real headlines: five nights of 2019, backfilled, their labels replayed by the stand-in teacher.

The data are not part of the project: FLYWHEEL_SHARED_DATA names their folder, default ../shared/data. As it
stands the drill trains one student on one size; in `make drills` it trains all three on 500, 2000 and 8000
records, which takes about an hour on 2 cores. `pytest -s` shows the tables.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.curation.result import CurateResult
from flywheel.laptop.processes import free_port
from flywheel.report import Report, render_markdown
from flywheel.runs.run import Run
from flywheel.stages.label import LabelResult
from tests.integration.airflow_stack import PROJECT, STUDENTS, Stack, apart

DATA = Path(os.environ.get("FLYWHEEL_SHARED_DATA") or PROJECT.parent / "shared" / "data")
HEADLINES = DATA / "headlines.csv.gz"
FULL = os.environ.get("FLYWHEEL_DRILL") == "full"
SIZES = [500, 2000, 8000] if FULL else [300]
NAMES = ["small", "medium", "large"] if FULL else ["small"]
NIGHTS = ("2019-03-04", "2019-03-08")
HOURS = 4.0

pytestmark = [
    pytest.mark.drill if FULL else pytest.mark.slow,
    pytest.mark.timeout(HOURS * 3600 if FULL else 1800),
    pytest.mark.skipif(not HEADLINES.exists(), reason=f"{HEADLINES} is not there: set FLYWHEEL_SHARED_DATA"),
]


def settings(folder: Path, teacher_port: int) -> dict[str, Any]:
    nims = [
        {
            "model_name": f"demo/{name}",
            "name": name,
            "weights": f"{STUDENTS}/{name}",
            "context_length": 2048,
            "gpus": 0,
        }
        for name in NAMES
    ]
    return apart(
        folder,
        nims=nims,
        source=[{"path": str(HEADLINES), "columns": {"text": "headline", "timestamp": "date"}}],
        teacher={"base_url": f"http://127.0.0.1:{teacher_port}/v1", "concurrency": 32},
        data_split_config={"eval_size": 400, "val_ratio": 0.05, "min_total_records": 1000},
        training_config={"epochs": 1, "batch_size": 32, "learning_rate": 0.003},
        promotion={"within": 0.1, "of": "teacher"},
    )


def test_five_nights_of_real_headlines(stack: Stack, data: Path) -> None:
    port = free_port()
    stack.launcher.start("replay", stack.teacher(HEADLINES, port))
    first, last = NIGHTS
    overrides = settings(data, port)
    # No student is named: all of the overrides' are taken.
    with stack.configured(overrides):
        runs = stack.backfill(first, f"{last}T23:59:59", "--max-active-runs", "2", students=[], sizes=SIZES)
        assert len(runs) == 5
        for run_id in runs:
            assert stack.wait(run_id, HOURS * 3600) == "success", stack.explain(run_id)
    root = ArtifactRoot(str(data / "artifacts"))
    asked, headlines = 0, 0
    for run_id in runs:
        run = Run(root, run_id)
        labelled, curated = run.load("stages/label", LabelResult), run.load("stages/curate", CurateResult)
        asked += labelled.asked
        headlines = max(headlines, labelled.headlines)
        folder = root.fetch("datasets", curated.dataset)
        latest = max(
            orjson.loads(line)["timestamp"]
            for part in ("train", "val", "eval")
            for line in (folder / f"{part}.jsonl").read_bytes().splitlines()
        )
        assert latest < run.plan.cutoff
        report = Report.read(Path(root.url) / run.path)
        assert [row.state for row in report.candidates] == ["scored"] * len(NAMES) * len(SIZES)
        print(
            f"\n\n{run_id}: {curated.used} records before {datetime.fromtimestamp(run.plan.cutoff, UTC)}, "
            f"the latest of {datetime.fromtimestamp(latest, UTC)}; {labelled.asked} asked, "
            f"{labelled.found} found\n\n{render_markdown(report)}"
        )
    # No headline was labelled twice over all five.
    assert asked == stack.teacher_calls(port)
    assert asked <= headlines
