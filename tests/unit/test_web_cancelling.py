"""A job that was cancelled is `failed` in Airflow's own list, whatever its last tasks are and whenever they end.

On a real database of Airflow's, with its scheduler's own function for the state of a run; no process is needed.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import sync_bag_to_db
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.settings import engine
from airflow.utils.db import initdb
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select
from sqlalchemy.orm import Session

from flywheel.config.experiments import DAG_ID
from flywheel.web import airflow_actions
from flywheel.web.airflow_runs import session
from tests.unit.dag_file import load, write_config

RUNTIMES = {
    "local": {"type": "local"},
    "kubernetes": {"type": "kubernetes", "kubernetes": {"image": "x", "volume_claim": "x"}},
    "nemo": {"type": "nemo"},
}
TEARDOWNS = ("sweep", "clean_up")
DUE = {"local": (), "kubernetes": ("sweep",), "nemo": TEARDOWNS}


class Vera:
    """Who cancels."""

    def get_name(self) -> str:
        return "vera"

    def get_id(self) -> str:
        return "vera"


@pytest.fixture(scope="module", autouse=True)
def _database() -> None:
    """Make Airflow's database, in the folder that tests/unit/conftest.py gives it."""
    assert "flywheel-airflow-" in str(engine.url)
    initdb()
    with session() as db:
        if db.get(DagBundleModel, "tests") is None:
            db.add(DagBundleModel(name="tests"))


@pytest.fixture(params=list(RUNTIMES))
def run_id(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the id of a run that goes on: its candidates are trained on a runtime."""
    sections = {"runtime": RUNTIMES[request.param]}
    if request.param == "nemo":
        sections["nmp_config"] = {
            f"{name}_base_url": f"http://{name}.test" for name in ("nemo", "nim", "datastore")
        }
    write_config(tmp_path, monkeypatch, **sections)
    monkeypatch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")
    name = f"api__{uuid.uuid4().hex}"
    bag = load()
    assert not bag.import_errors
    with session() as db:
        sync_bag_to_db(bag, "tests", None, session=db)
    with session() as db:
        dag = airflow_actions.create_dag_bag().get_latest_version_of_dag(DAG_ID, session=db)
        assert [name for name in TEARDOWNS if name in dag.task_dict] == list(DUE[request.param])
        run = dag.create_dagrun(
            run_id=name,
            run_after=datetime(2025, 3, 4, tzinfo=UTC),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=db,
        )
        for task in run.get_task_instances(session=db):
            if task.task_id in ("plan", "label", "ingest", "curate"):
                task.state = TaskInstanceState.SUCCESS
            elif task.task_id == "base_eval":
                task.state = TaskInstanceState.RUNNING
    return name


def run_in(db: Session, run_id: str) -> DagRun:
    found = db.scalar(select(DagRun).where(DagRun.dag_id == DAG_ID, DagRun.run_id == run_id))
    assert found is not None
    return found


def states(run_id: str) -> dict[str, str]:
    with session() as db:
        rows = db.execute(
            select(TaskInstance.task_id, TaskInstance.state).where(
                TaskInstance.dag_id == DAG_ID, TaskInstance.run_id == run_id
            )
        )
        return {task: str(state) for task, state in rows}


def end_teardowns(run_id: str) -> None:
    """Have what comes after a stopped run end well, and the scheduler look at the run as it does each second."""
    with session() as db:
        for task in run_in(db, run_id).get_task_instances(session=db):
            if task.task_id in TEARDOWNS:
                task.state = TaskInstanceState.SUCCESS
    with session() as db:
        run = run_in(db, run_id)
        if run.state not in (DagRunState.FAILED, DagRunState.SUCCESS):  # the scheduler looks at no others
            run.dag = airflow_actions.get_dag_for_run(airflow_actions.create_dag_bag(), run, db)
            run.update_state(session=db, execute_callbacks=False)


def test_a_cancelled_run_has_failed_and_says_who_cancelled_it(run_id: str) -> None:
    airflow_actions.stop_run(Vera(), run_id)
    end_teardowns(run_id)
    with session() as db:
        run = run_in(db, run_id)
        assert run.state == DagRunState.FAILED
        assert run.note.startswith("cancelled by vera at 20")
    left = {task: state for task, state in states(run_id).items() if state not in ("failed", "skipped")}
    assert set(left) == {"plan", "label", "ingest", "curate"} | (set(TEARDOWNS) & set(states(run_id)))


def test_looking_after_a_cancelled_run_finds_it_stopped_while_its_teardown_goes_on(run_id: str) -> None:
    airflow_actions.stop_run(Vera(), run_id)
    assert airflow_actions.stop_again(run_id) is False


def test_a_task_that_ended_well_after_all_makes_a_cancelled_run_no_success(run_id: str) -> None:
    """The scheduler starts a task, or a last one ends, in the moment in which the run is stopped."""
    airflow_actions.stop_run(Vera(), run_id)
    with session() as db:
        for task in run_in(db, run_id).get_task_instances(session=db):
            if task.task_id in ("promote", "serve"):
                task.state = TaskInstanceState.SUCCESS
            elif task.task_id == "score":
                task.state = TaskInstanceState.SCHEDULED
    assert airflow_actions.stop_again(run_id) is True
    assert states(run_id)["score"] == "skipped"
    end_teardowns(run_id)
    with session() as db:
        assert run_in(db, run_id).state == DagRunState.FAILED


def test_a_note_that_is_there_is_kept(run_id: str) -> None:
    with session() as db:
        run_in(db, run_id).note = ("too slow", "otto")
    airflow_actions.stop_run(Vera(), run_id)
    with session() as db:
        first, second = run_in(db, run_id).note.splitlines()
    assert first == "too slow"
    assert second.startswith("cancelled by vera")
