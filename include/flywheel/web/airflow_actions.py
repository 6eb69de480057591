"""What the API has Airflow do: start, stop and remove runs, answer a review, tell of a champion.

All of it is done by the functions behind Airflow's own REST API, and noted in its audit log. Whether the user
may do it is for the routes to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.common.dagbag import create_dag_bag, get_dag_for_run
from airflow.api_fastapi.core_api.datamodels.dag_run import DagRunMutableStates, TriggerDAGRunPostBody
from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
from airflow.api_fastapi.core_api.routes.public.dag_run import delete_dag_run, trigger_dag_run
from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
from airflow.api_fastapi.core_api.services.public.dag_run import patch_dag_run_note, patch_dag_run_state
from airflow.assets.manager import asset_manager
from airflow.configuration import conf
from airflow.models.asset import AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.serialization.definitions.assets import SerializedAsset
from airflow.utils.state import DagRunState, State, TaskInstanceState
from fastapi import Request
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flywheel.config.experiments import DAG_ID
from flywheel.orchestration.tasks import CHAMPION, champion_uri
from flywheel.promotion.champion import Champion
from flywheel.runs.names import airflow_run
from flywheel.web.airflow_runs import is_run, session
from flywheel.web.problems import Problem

# What a stopped run does all the same: it takes away what is left of it elsewhere.
_AFTER = ("sweep", "clean_up")

NOTE_LENGTH = 1000  # of a run's note in Airflow, at most


@cache
def _dags() -> Any:
    return create_dag_bag()


def note(user: Any, event: str, run_id: str | None = None, extra: str = "") -> None:
    """Write a line into Airflow's audit log."""
    with session() as db:
        _note(db, user, event, run_id, extra)


def start_run(user: Any, request: Request, run_id: str, params: dict[str, Any]) -> bool:
    """Start a run; return False where the DAG is paused, and the run waits until it is not.

    Raises:
        Problem: there is a run of that id, or the DAG is not there or cannot run.
    """
    dag_id, airflow_id = airflow_run(run_id)
    body = TriggerDAGRunPostBody(dag_run_id=airflow_id, logical_date=None, conf=params)
    try:
        with session() as db:
            trigger_dag_run(dag_id, body, _dags(), user, db, request)
            _note(db, user, "flywheel_start_job", run_id)
            return not db.scalar(select(DagModel.is_paused).where(DagModel.dag_id == dag_id))
    except IntegrityError:
        raise Problem(409, "There is a run of that id already.") from None


def stop_run(user: Any, run_id: str) -> None:
    """End a run and all that it runs: its tasks are told to, and each ends its job or pod.

    The run ends as failed, with a note that says who stopped it.
    """
    with session() as db:
        run = _fail(db, run_id)
        if run is not None:
            told = f"cancelled by {user.get_name()} at {now()}"
            before = f"{run.note}\n" if run.note else ""
            patch_dag_run_note(dag_run=run, note=f"{before}{told}"[-NOTE_LENGTH:], user=user)
        _note(db, user, "flywheel_cancel_job", run_id)


def stop_again(run_id: str) -> bool:
    """End what a run has started since it was stopped; return whether there was something.

    In the moment in which a run is stopped, the scheduler may be about to start a task of it, or to find that
    all its tasks have ended, some skipped, which makes it a success.
    """
    with session() as db:
        left = db.scalars(
            select(TaskInstance.task_id).where(
                is_run(run_id, TaskInstance),
                TaskInstance.task_id.not_in(_AFTER),
                or_(TaskInstance.state.is_(None), TaskInstance.state.not_in(State.finished)),
            )
        ).first()
        run = _run(db, run_id)
        is_stopped = run is None or (
            left is None
            and run.state != DagRunState.SUCCESS
            and all(task.state == TaskInstanceState.FAILED for task in _last_tasks(db, run))
        )
        if not is_stopped:
            _fail(db, run_id)
        return not is_stopped


def remove_run(user: Any, run_id: str) -> None:
    """Remove a run that has ended from Airflow's database."""
    with session() as db:
        delete_dag_run(*airflow_run(run_id), db)
        _note(db, user, "flywheel_delete_job", run_id)


def answer_review(user: Any, run_id: str, option: str, comment: str) -> None:
    """Answer the review of a run.

    Raises:
        HTTPException: nobody is asked, it was answered already, or others are asked and not this user.
    """
    given = {"comment": comment} if comment else {}
    with session() as db:
        answer = UpdateHITLDetailPayload(chosen_options=[option], params_input=given)
        update_hitl_detail(*airflow_run(run_id), "review", answer, user, db, -1)
        _note(db, user, "flywheel_review", run_id, option)


def tell_of_champion(user: Any, champion: Champion, why: str) -> None:
    """Emit the event of the champion's asset, on which other DAGs hang."""
    uri = champion_uri(champion.workload_id, champion.client_id)
    extra = {
        "student": champion.student,
        "size": champion.size,
        "adapter": champion.adapter,
        "metric": champion.metric,
        "score": champion.score,
    }
    asset = SerializedAsset(name=uri, uri=uri, group="asset", extra={}, watchers=[])
    with session() as db:
        event: dict[str, Any] = {
            "asset": asset,
            "source_alias_names": {CHAMPION.name},
            "extra": extra,
            "source_is_api": True,
            "api_user_teams": _teams(user),
            "session": db,
        }
        if asset_manager.register_asset_change(**event) is None:
            db.add(AssetModel.from_serialized(asset))
            db.flush()
            asset_manager.register_asset_change(**event)
        _note(db, user, f"flywheel_{why}", champion.run_id, f"{champion.name}, adapter {champion.adapter}")


def _teams(user: Any) -> set[str]:
    """Return the teams whose DAGs a user's event may start, where Airflow has teams."""
    if not conf.getboolean("core", "multi_team"):
        return set()
    return set(get_auth_manager().get_authorized_teams(user=user))


def _fail(db: Session, run_id: str) -> DagRun | None:
    """Mark a run and its tasks as failed; return the run, None where there is none.

    A run that has a teardown before it goes on until that has ended, and its end is then told by its last
    tasks; these Airflow skips, with which the run would be a success. So they are marked as failed, too.
    """
    run = _run(db, run_id)
    if run is not None:
        dag = get_dag_for_run(_dags(), run, db)
        patch_dag_run_state(dag=dag, dag_run=run, state=DagRunMutableStates.FAILED, session=db)
        for task in _last_tasks(db, run):
            task.set_state(TaskInstanceState.FAILED, session=db)
    return run


def _run(db: Session, run_id: str) -> DagRun | None:
    return db.scalar(select(DagRun).where(is_run(run_id)))


def _last_tasks(db: Session, run: DagRun) -> Sequence[TaskInstance]:
    """Return the tasks that nothing but teardowns comes after: Airflow takes a run's state from theirs."""
    dag = get_dag_for_run(_dags(), run, db)
    teardowns = {task.task_id for task in dag.tasks if task.is_teardown}
    last = {task.task_id for task in dag.tasks if task.downstream_task_ids <= teardowns} - teardowns
    return db.scalars(
        select(TaskInstance).where(
            TaskInstance.dag_id == run.dag_id,
            TaskInstance.run_id == run.run_id,
            TaskInstance.task_id.in_(last),
        )
    ).all()


def _note(db: Session, user: Any, event: str, run_id: str | None, extra: str = "") -> None:
    name = user.get_name()
    dag_id, airflow_id = airflow_run(run_id) if run_id else (DAG_ID, None)
    of: dict[str, Any] = {"extra": extra or None, "dag_id": dag_id, "run_id": airflow_id}
    db.add(Log(event, owner=name, owner_display_name=name, **of))


def now() -> str:
    """Return the time as it is written into files."""
    return datetime.now(UTC).isoformat(timespec="seconds")
