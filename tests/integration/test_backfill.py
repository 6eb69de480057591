"""A backfill gives each night what its own run would have given."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.curation.result import CurateResult
from flywheel.runs.run import Run
from flywheel.stages.label import LabelResult
from tests.integration.airflow_stack import Stack, apart, report_of

pytestmark = pytest.mark.slow

NIGHTS = ("2025-03-10", "2025-03-13")


def test_each_night_sees_what_was_before_it(stack: Stack, data: Path) -> None:
    calls = stack.teacher_calls()
    runs = stack.backfill(*NIGHTS, apart(data), students=["small"], sizes=[40])
    assert len(runs) in (3, 4)  # by the hour of the schedule
    for run_id in runs:
        assert stack.wait(run_id) == "success", stack.explain(run_id)

    root = ArtifactRoot(str(data / "artifacts"))
    asked, seen = 0, []
    for run_id in runs:
        run = Run(root, run_id)
        night = datetime.fromtimestamp(run.plan.cutoff, UTC)
        assert night.strftime("%Y-%m-%d") in run_id
        assert (night.minute, night.second) == (0, 0)
        labelled, curated = run.load("stages/label", LabelResult), run.load("stages/curate", CurateResult)
        asked += labelled.asked
        seen.append((run.plan.cutoff, labelled.headlines))
        for part in ("train", "val", "eval"):
            lines = (root.fetch("datasets", curated.dataset) / f"{part}.jsonl").read_bytes().splitlines()
            assert all(orjson.loads(line)["timestamp"] < run.plan.cutoff for line in lines)
        assert report_of(data, run_id)["candidates"][0]["state"] == "scored"
    assert [cutoff for cutoff, _ in seen] == sorted({cutoff for cutoff, _ in seen})
    assert [count for _, count in seen] == sorted(count for _, count in seen)

    # However the nights overlapped, each headline was labelled once: all of them are in the last night.
    assert asked == stack.teacher_calls() - calls == max(count for _, count in seen)

    # The DAG is read anew, and no night of this year starts by itself.
    stack.airflow("dags", "reserialize")
    (dag,) = [one for one in stack.rest("GET", "/dags")["dags"] if one["dag_id"] == "flywheel"]
    assert datetime.fromisoformat(dag["next_dagrun_run_after"]) > datetime.now(UTC)
    assert stack.rest("GET", "/dags/flywheel/dagRuns?run_type=scheduled")["dag_runs"] == []
