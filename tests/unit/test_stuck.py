"""What a run is stuck at, by its tasks and by how Airflow is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.runs.run import Run
from flywheel.runs.waits import Wait, wait_path, waits
from flywheel.web import airflow_runs, stuck
from flywheel.web.airflow_runs import AirflowNow, AirflowRun, AirflowTask

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)
WELL = {
    "is_paused": False,
    "has_scheduler": True,
    "has_triggerer": True,
    "asked": set(),
    "pools": {"default_pool": (3, 3)},
}


def task(task_id: str, state: str, index: str = "", at: datetime = LONG_AGO) -> AirflowTask:
    number = 0 if index else -1
    return AirflowTask(task_id, number, index, state, 1, at, None, at, "default_pool")


@pytest.fixture
def run() -> AirflowRun:
    texts: dict[str, Any] = {"run_id": "r", "run_type": "manual", "version": "", "user": None, "root": None}
    times = {"run_after": LONG_AGO, "queued_at": LONG_AGO, "started_at": LONG_AGO, "ended_at": None}
    return AirflowRun(**texts, **times, state="running", clear_number=0, conf={})


@pytest.fixture
def folder(tmp_path: Path) -> Run:
    return Run(ArtifactRoot(str(tmp_path)), "r")


@pytest.fixture
def said(run: AirflowRun, folder: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give what says where the run is stuck, for tasks and changes of how Airflow is; empty: it is not."""

    def of(*tasks: AirflowTask, **now: Any) -> str:
        monkeypatch.setattr(airflow_runs, "airflow_of_now", lambda _: AirflowNow(**{**WELL, **now}))
        found = stuck.stuck_of(run, folder, list(tasks))
        return found.told if found else ""

    return of


def test_a_run_is_not_stuck_while_something_of_it_works_or_has_just_moved(said: Any) -> None:
    assert not said(task("label", "running"), task("candidate.customize", "queued"))
    assert not said(task("candidate.customize", "deferred"))  # its pod, which has said nothing, works
    assert not said(task("label", "queued", at=datetime.now(UTC)))


def test_what_is_gone_or_missing_in_airflow_is_named_with_its_mend(said: Any) -> None:
    queued, scheduled = task("label", "queued"), task("label", "scheduled")
    assert "no worker takes it" in said(queued)
    assert "3 slots of pool default_pool, 3 of them taken" in said(scheduled)
    assert "`airflow scheduler`" in said(queued, has_scheduler=False)
    assert "`airflow triggerer`" in said(task("candidate.customize", "deferred"), has_triggerer=False)
    assert "its DAG is paused" in said(scheduled, is_paused=True)
    assert "no task of it runs or waits" in said(task("label", "success"))


def test_a_question_that_nobody_answers_is_named(said: Any) -> None:
    told = said(task("review", "awaiting_input"), asked={"review"})
    assert "a person was asked" in told
    assert "promotion.approval_timeout_hours" in told


def test_a_pod_that_waits_is_told_when_no_other_works(said: Any, folder: Run) -> None:
    first = task("candidate.customize", "deferred", "small @ 40")
    wait = Wait(sentence="its pod waits for a place for 1 nvidia.com/gpu", mend="Free one.")
    waits(folder.root, wait_path(folder, first.task_id, first.map_index), wait)
    told = said(first)
    assert told.startswith("customize small @ 40 is stuck: its pod waits for a place for 1 nvidia.com/gpu")
    assert told.endswith("Free one.")
    assert not said(first, task("base_eval", "deferred", "small"))
    waits(folder.root, wait_path(folder, first.task_id, first.map_index), None)
    assert not said(first)
