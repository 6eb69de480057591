"""Backfills: the nights of some days, what they will ask of the teacher, and Airflow's own backfill of them.

A night that has succeeded is found and not made again, one that has failed is; they run one after another, in
order of time, and each sees what was known before it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from airflow.api_fastapi.core_api.datamodels.backfills import BackfillPostBody
from airflow.api_fastapi.core_api.routes.public.backfills import cancel_backfill, create_backfill
from airflow.models.backfill import Backfill, BackfillDagRun, ReprocessBehavior
from airflow.models.dagrun import DagRun
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, ConfigError, FlywheelError
from flywheel.config import Config, load_config
from flywheel.config.experiments import dag_id_of, experiment_of
from flywheel.config.loading import default_config_path
from flywheel.orchestration.nights import nights
from flywheel.promotion.costs import costs_so_far
from flywheel.report.parts import CostPart
from flywheel.runs.names import run_id_of
from flywheel.runs.plan import Plan, make_plan
from flywheel.stages import confirmation
from flywheel.stages.forecast import forecast
from flywheel.stages.label import LabelResult
from flywheel.web import airflow_runs, run_files
from flywheel.web.airflow_runs import DONE, session
from flywheel.web.problems import Problem, problem_of

NightState = Literal["missing", "queued", "running", "success", "failed", "to come"]
# What a backfill makes.
_MADE = ("missing", "failed")


class BackfillNight(BaseModel):
    """A night of a backfill."""

    night: date = Field(description="Its date, in the schedule's time zone.")
    due: datetime = Field(description="When it was due; it sees what was known before.")
    state: NightState
    run_id: str | None = None
    asked: int | None = Field(
        None, description="Answers asked of the teacher; null: it has not labelled yet."
    )
    tokens: int | None = None
    cost: float | None = Field(None, description="By teacher.prices.")


class BackfillForecast(BaseModel):
    """What a backfill will make, and what that costs."""

    time_zone: str
    nights: list[BackfillNight]
    make: int = Field(description="Nights that will be made: those that are missing or have failed.")
    ask: int | None = Field(None, description="Answers that will be asked of the teacher; null: not known.")
    tokens: int | None = Field(None, description="Of these, about.")
    cost: float | None = Field(None, description="Of these, about; null: without prices, or not known.")
    hours: float | None = Field(
        None,
        description="Of CPUs and GPUs: each night's as of the run that used most; null: no run yet.",
    )
    machines: float | None = Field(None, description="Money for these; null: without prices, or not known.")
    currency: str = ""
    says: str = Field(description="The same in a sentence.")
    confirm: bool = Field(
        False, description="It is above teacher.confirm_above: the first night waits for a person."
    )
    running: int | None = Field(None, description="The backfill that is at work now: there is one at a time.")


class BackfillStatus(BaseModel):
    """A backfill, as of now."""

    id: int
    is_done: bool
    is_cancelled: bool
    nights: list[BackfillNight]


def forecast_backfill(first: date, last: date, experiment: str) -> BackfillForecast:
    """Return the nights of these days, both included, and what those that are to be made will ask.

    Raises:
        Problem: these days have no nights.
    """
    config, found = _config(experiment), _nights(first, last, experiment)
    made = [night for night in found if night.state in _MADE]
    with session() as db:
        told = BackfillForecast(
            time_zone=config.schedule.time_zone,
            nights=found,
            make=len(made),
            ask=0,
            tokens=0,
            says="all of these nights are there or still to come: nothing will be asked",
            running=_active(db, dag_id_of(experiment)),
        )
    if not made:
        return told
    try:
        plan = make_plan(
            config,
            run_id=run_id_of("backfill", dag_id_of(experiment)),
            dag_id=dag_id_of(experiment),
            cutoff=made[-1].due,
            experiment=experiment,
            is_backfill=True,
        )
        counted = forecast(plan)
    except FlywheelError as error:
        says = f"what it costs cannot be counted: {problem_of(error).detail}"
        return told.model_copy(update={"ask": None, "tokens": None, "says": says})
    if counted is None:
        says = "there are no headlines: nothing will be asked of the teacher"
        return told.model_copy(update={"says": says})
    limit, most = config.teacher.confirm_above, _most_used(plan)
    hours = most and len(made) * (most.cpu_hours + most.gpu_hours)
    machines = None if most is None or most.machines is None else len(made) * most.machines
    said = "" if hours is None else f"; machines: about {hours:,.3g} hours"
    said += f" and {machines:,.2f} {most.currency}" if most and machines else ""
    return told.model_copy(
        update={
            "ask": counted.ask,
            "tokens": counted.tokens,
            "cost": counted.cost if counted.currency else None,
            "hours": hours,
            "machines": machines,
            "currency": counted.currency,
            "says": f"{counted.line()}{said}",
            "confirm": limit.is_set and confirmation.is_above(counted, limit),
        }
    )


def _most_used(plan: Plan) -> CostPart | None:
    """Return what the run that took most of machines has used; None: no run is known.

    A run that found its jobs done has used next to nothing, which says nothing of nights that are missing.
    """
    root = ArtifactRoot(plan.config.artifacts.root)
    known = costs_so_far(root, plan.workload_id, plan.client_id, plan.config.schedule.time_zone)
    return max(known.runs.values(), key=lambda cost: cost.cpu_hours + cost.gpu_hours) if known else None


def start_backfill(user: Any, first: date, last: date, experiment: str) -> int:
    """Start Airflow's own backfill of the nights that are missing or have failed; return its number.

    Raises:
        Problem: there is nothing to make, or another backfill is at work.
    """
    made = [night for night in _nights(first, last, experiment) if night.state in _MADE]
    if not made:
        raise Problem(409, "All of these nights are there, or still to come.")
    with session() as db:
        if (active := _active(db, dag_id_of(experiment))) is not None:
            raise Problem(
                409, f"Backfill {active} is at work, and there is one at a time: wait, or cancel it."
            )
        body = BackfillPostBody(
            dag_id=dag_id_of(experiment),
            from_date=made[0].due,
            to_date=made[-1].due,
            dag_run_conf={},
            reprocess_behavior=ReprocessBehavior.FAILED,
            max_active_runs=1,
        )
        try:
            return create_backfill(body, user, db).id
        except RequestValidationError as error:
            raise Problem(409, f"Airflow does not take it: {error.errors()}") from None


def experiment_of_backfill(number: int) -> str:
    """Return the experiment whose nights a backfill makes.

    Raises:
        Problem: there is none of that number.
    """
    with session() as db:
        backfill = db.get(Backfill, number)
        experiment = experiment_of(backfill.dag_id) if backfill else ""
        if backfill is None or backfill.dag_id != dag_id_of(experiment):
            raise Problem(404, "There is no such backfill.")
    return experiment


def backfill_status(number: int) -> BackfillStatus:
    """Return how far a backfill is.

    Raises:
        Problem: there is none of that number.
    """
    experiment = experiment_of_backfill(number)
    with session() as db:
        backfill = db.get_one(Backfill, number)
        runs = db.execute(
            select(DagRun.logical_date, DagRun.run_id, DagRun.state)
            .join(BackfillDagRun, BackfillDagRun.dag_run_id == DagRun.id)
            .where(BackfillDagRun.backfill_id == number)
            .order_by(DagRun.logical_date)
        ).all()
        ended, paused = backfill.completed_at is not None, bool(backfill.is_paused)
    zone = ZoneInfo(_config(experiment).schedule.time_zone)
    found = [
        _with_cost(_night(due.astimezone(zone), experiment, run_id, state)) for due, run_id, state in runs
    ]
    is_over = ended or (bool(found) and all(night.state in DONE for night in found))
    return BackfillStatus(id=number, is_done=is_over, is_cancelled=ended and paused, nights=found)


def cancel(number: int) -> BackfillStatus:
    """Let the nights that have not begun be; one that runs goes to its end.

    Raises:
        Problem: there is no such backfill, or it has ended.
    """
    backfill_status(number)
    with session() as db:
        cancel_backfill(number, db)
    return backfill_status(number)


def _config(experiment: str) -> Config:
    try:
        return load_config(default_config_path(), experiment)
    except ConfigError as error:
        if experiment and error.args and str(error.args[0]).startswith("experiment:"):
            raise Problem(404, "There is no such experiment.") from None
        raise


def _nights(first: date, last: date, experiment: str) -> list[BackfillNight]:
    try:
        due = nights(_config(experiment).schedule, first, last)
    except ConfigError as error:
        raise Problem(409, str(error)) from None
    if not due:
        raise Problem(409, "The schedule has no night on these days.")
    with session() as db:
        rows = db.execute(
            select(DagRun.logical_date, DagRun.run_id, DagRun.state).where(
                DagRun.dag_id == dag_id_of(experiment), DagRun.logical_date.between(due[0], due[-1])
            )
        )
        runs = {when.astimezone(UTC): (run_id, state) for when, run_id, state in rows}
    return [_night(when, experiment, *runs.get(when.astimezone(UTC), (None, None))) for when in due]


def _night(due: datetime, experiment: str, airflow_id: str | None, state: str | None) -> BackfillNight:
    run_id = run_id_of(airflow_id, dag_id_of(experiment)) if airflow_id else None
    told: Any = str(state) if run_id else "missing"
    if run_id is None and due >= datetime.now(UTC):
        told = "to come"
    return BackfillNight(night=due.date(), due=due.astimezone(UTC), state=told, run_id=run_id)


def _with_cost(night: BackfillNight) -> BackfillNight:
    """Return a night with what it has asked of the teacher."""
    run = airflow_runs.find_run(night.run_id) if night.run_id else None
    try:
        labelled = run_files.run_of(run).find("stages/label", LabelResult) if run else None
    except ArtifactError:
        labelled = None
    if labelled is None:
        return night
    tokens = labelled.prompt_tokens + labelled.completion_tokens
    return night.model_copy(
        update={
            "asked": labelled.asked,
            "tokens": tokens,
            "cost": labelled.cost if labelled.currency else None,
        }
    )


def _active(db: Session, dag_id: str) -> int | None:
    """Return the backfill that is at work; one whose runs have all ended is closed, as the scheduler will."""
    active: int | None = db.scalar(
        select(Backfill.id).where(Backfill.dag_id == dag_id, Backfill.completed_at.is_(None))
    )
    if active is None:
        return None
    states = db.scalars(
        select(DagRun.state)
        .join(BackfillDagRun, BackfillDagRun.dag_run_id == DagRun.id)
        .where(BackfillDagRun.backfill_id == active)
    ).all()
    if not states or any(state not in DONE for state in states):
        return active
    cancel_backfill(active, db)
    return None
