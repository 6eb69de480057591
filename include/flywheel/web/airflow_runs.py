"""What Airflow's database knows of the experiments' runs and their tasks. The only module that reads it.

Plain columns are selected, no objects: 1,000 runs take some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson
from airflow.jobs.job import most_recent_job
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import String, and_, cast, func, or_, select
from sqlalchemy.orm import Session

from flywheel.config.experiments import DAG_ID, FILE_PREFIX, experiment_of
from flywheel.runs.names import airflow_run, run_id_of
from flywheel.runtimes.seal import is_sealed

DONE = frozenset({"success", "failed"})
# States of a task that waits for a person.
WAITING_STATES = ("awaiting_input", "deferred")
# Of a task whose question nobody has answered.
_UNANSWERED = (TaskInstance.state.in_(WAITING_STATES), HITLDetail.responded_at.is_(None))


@dataclass(frozen=True, slots=True)
class AirflowRun:
    """A run of an experiment's DAG.

    Attributes:
        run_id: over all experiments: see flywheel.runs.names.
        state: queued, running, success or failed.
        version: another one means that something about the run has changed.
        clear_number: how often it was begun anew.
        conf: the run's params that differ from their defaults.
        root: URL of the artifact root that `plan` told; None before, and where somebody else has told it.
    """

    run_id: str
    state: str
    run_type: str
    run_after: datetime
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    version: str
    clear_number: int
    conf: dict[str, Any]
    root: str | None
    user: str | None

    @property
    def experiment(self) -> str:
        """Whose DAG's run it is."""
        return experiment_of(airflow_run(self.run_id)[0])

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in DONE

    @property
    def begun_at(self) -> datetime:
        """When it started; before that, when it was asked for."""
        return self.started_at or self.queued_at or self.run_after


@dataclass(frozen=True, slots=True)
class AirflowTask:
    """A task of a run.

    Attributes:
        task_id: with its group, such as `candidate.customize`.
        index: the name of its map index, such as `small @ 300`.
        waits_since: when it was last scheduled, or handed to the executor.
    """

    task_id: str
    map_index: int
    index: str
    state: str
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None
    waits_since: datetime | None = None
    pool: str = ""

    def url(self, run_id: str) -> str:
        """Return the path of the task's page, with its log, in Airflow's UI."""
        path = f"{page_of(run_id)}/tasks/{quote(self.task_id, safe='')}"
        return path if self.map_index < 0 else f"{path}/mapped/{self.map_index}"


def page_of(run_id: str) -> str:
    """Return the path of a run's page in Airflow's UI."""
    dag_id, airflow_id = airflow_run(run_id)
    return f"/dags/{dag_id}/runs/{quote(airflow_id, safe='')}"


def is_experiments() -> Any:
    """Return the condition that a run is one of an experiment's DAG, also of one whose file is gone."""
    of_files = select(DagModel.dag_id).where(DagModel.relative_fileloc.contains(FILE_PREFIX, autoescape=True))
    return or_(DagRun.dag_id == DAG_ID, DagRun.dag_id.in_(of_files))


def is_run(run_id: str, of: Any = DagRun) -> Any:
    """Return the condition that a row, of runs or of their tasks, is of a run."""
    dag_id, airflow_id = airflow_run(run_id)
    return and_(of.dag_id == dag_id, of.run_id == airflow_id)


@contextmanager
def session() -> Iterator[Session]:
    """Give a session of Airflow's database: committed at the end, rolled back on an error."""
    with create_session(scoped=False) as opened:
        yield opened


def _select_runs() -> Any:
    told = (XComModel.dag_run_id == DagRun.id, XComModel.task_id == "plan", XComModel.key == "run")
    return select(
        DagRun.dag_id,
        DagRun.run_id,
        DagRun.state,
        DagRun.run_type,
        DagRun.run_after,
        DagRun.queued_at,
        DagRun.start_date,
        DagRun.end_date,
        DagRun.updated_at,
        DagRun.clear_number,
        DagRun.conf,
        DagRun.triggering_user_name,
        XComModel.value,
    ).outerjoin(XComModel, (told[0]) & (told[1]) & (told[2]) & (XComModel.map_index == -1))


def _run(row: Any) -> AirflowRun:
    told = row.value
    if isinstance(told, str):  # an XCom is JSON in a JSON column
        told = orjson.loads(told)
    return AirflowRun(
        run_id=(run_id := run_id_of(row.run_id, row.dag_id)),
        state=str(row.state),
        run_type=str(row.run_type),
        run_after=row.run_after,
        queued_at=row.queued_at,
        started_at=row.start_date,
        ended_at=row.end_date,
        version=f"{row.state} {row.end_date} {row.updated_at} {row.clear_number}",
        clear_number=row.clear_number,
        conf=row.conf if isinstance(row.conf, dict) else {},
        root=told.get("root") if is_sealed("run", told) and told.get("run_id") == run_id else None,
        user=row.triggering_user_name,
    )


# Runs that have ended, by their number: (what tells of a change, the run). Replaced whole, never changed.
_ended: dict[int, tuple[Any, AirflowRun]] = {}


def all_runs() -> list[AirflowRun]:
    """Return all runs of all experiments, the latest first.

    A row with its times and params costs 0.1 ms to read; so those of runs that have ended are kept, and one
    column of all says which have changed.
    """
    global _ended
    kept = _ended
    with session() as db:
        marks = db.execute(
            select(DagRun.id, cast(DagRun.updated_at, String), DagRun.clear_number)
            .where(is_experiments())
            .order_by(DagRun.run_after.desc(), DagRun.id.desc())
        ).all()
        runs = {
            number: kept[number][1] for number, *mark in marks if number in kept and kept[number][0] == mark
        }
        unknown = [number for number, *_ in marks if number not in runs]
        for start in range(0, len(unknown), 500):
            part = unknown[start : start + 500]
            for row in db.execute(_select_runs().add_columns(DagRun.id).where(DagRun.id.in_(part))):
                runs[row.id] = _run(row)
    found = [(number, mark, runs[number]) for number, *mark in marks if number in runs]
    _ended = {number: (mark, run) for number, mark, run in found if run.is_done}
    return [run for _, _, run in found]


def find_run(run_id: str) -> AirflowRun | None:
    """Return a run; None where there is no such run."""
    with session() as db:
        row = db.execute(_select_runs().where(is_run(run_id), is_experiments())).first()
        return None if row is None else _run(row)


def tasks_of(run_id: str) -> list[AirflowTask]:
    """Return the tasks of a run."""
    with session() as db:
        rows = db.execute(
            select(
                TaskInstance.task_id,
                TaskInstance.map_index,
                TaskInstance._rendered_map_index,
                TaskInstance.state,
                TaskInstance.try_number,
                TaskInstance.start_date,
                TaskInstance.end_date,
                func.coalesce(TaskInstance.queued_dttm, TaskInstance.scheduled_dttm),
                TaskInstance.pool,
            ).where(is_run(run_id, TaskInstance))
        )
        return [
            AirflowTask(task, index, name or "", str(state or "none"), tries, started, ended, since, pool)
            for task, index, name, state, tries, started, ended, since, pool in rows
        ]


@dataclass(frozen=True, slots=True)
class AirflowNow:
    """What the runs of the DAG wait for in Airflow itself.

    Attributes:
        asked: tasks of the run that wait for a person's answer.
        pools: by name, the slots taken and all of them.
    """

    is_paused: bool
    has_scheduler: bool
    has_triggerer: bool
    asked: set[str]
    pools: dict[str, tuple[float, float]]


def airflow_of_now(run_id: str) -> AirflowNow:
    """Return how Airflow is, as far as a run depends on it."""
    with session() as db:
        alive = {
            kind: (job := most_recent_job(kind, session=db)) is not None and job.is_alive()
            for kind in ("SchedulerJob", "TriggererJob")
        }
        asked = (
            select(TaskInstance.task_id)
            .join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
            .where(is_run(run_id, TaskInstance), *_UNANSWERED)
        )
        pools = Pool.slots_stats(session=db)
        return AirflowNow(
            is_paused=bool(
                db.scalar(select(DagModel.is_paused).where(DagModel.dag_id == airflow_run(run_id)[0]))
            ),
            has_scheduler=alive["SchedulerJob"],
            has_triggerer=alive["TriggererJob"],
            asked=set(db.scalars(asked)),
            pools={name: (pool["total"] - pool["open"], pool["total"]) for name, pool in pools.items()},
        )


def runs_in_review() -> set[str]:
    """Return the runs that wait for a person's answer."""
    with session() as db:
        waiting = db.execute(
            select(TaskInstance.run_id, TaskInstance.dag_id)
            .join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
            .where(TaskInstance.task_id == "review", *_UNANSWERED)
        )
        return {run_id_of(*row) for row in waiting}


@dataclass(frozen=True, slots=True)
class DagState:
    """When a DAG runs next, by the clock; None: not by it."""

    next_run: datetime | None
    is_paused: bool


def dags(dag_ids: Sequence[str]) -> dict[str, DagState]:
    """Return the DAGs of these ids that Airflow knows and has files of."""
    columns = (DagModel.dag_id, DagModel.next_dagrun_create_after, DagModel.is_paused)
    with session() as db:
        rows = db.execute(select(*columns).where(DagModel.dag_id.in_(dag_ids), ~DagModel.is_stale))
        return {dag_id: DagState(due, bool(paused)) for dag_id, due, paused in rows}


@dataclass(frozen=True, slots=True)
class AskedReview:
    """A review that a person is, or was, asked for."""

    subject: str
    body: str
    options: list[str]
    asked_at: datetime
    chosen: list[str]
    answered_by: str | None
    answered_at: datetime | None
    comment: str
    task_state: str


def review_of(run_id: str) -> AskedReview | None:
    """Return the review of a run; None where nobody was asked."""
    with session() as db:
        found = db.execute(
            select(HITLDetail, TaskInstance.state)
            .join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)
            .where(is_run(run_id, TaskInstance), TaskInstance.task_id == "review")
        ).first()
        if found is None:
            return None
        detail, state = found
        return AskedReview(
            subject=detail.subject,
            body=detail.body or "",
            options=list(detail.options or []),
            asked_at=detail.created_at,
            chosen=list(detail.chosen_options or []),
            answered_by=(detail.responded_by or {}).get("name"),
            answered_at=detail.responded_at,
            comment=str((detail.params_input or {}).get("comment") or ""),
            task_state=str(state or "none"),
        )
