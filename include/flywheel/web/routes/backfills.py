"""/api/backfills: what nights from one day to another would make and cost, and Airflow's backfill of them."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from flywheel.config.experiments import NAME
from flywheel.web import airflow_actions, backfills, idempotency
from flywheel.web.access import ReaderOfAny, TriggerOfAny, check_allowed, check_starter
from flywheel.web.backfills import BackfillForecast, BackfillStatus
from flywheel.web.idempotency import IdempotencyKey
from flywheel.web.routes.parts import problems

router = APIRouter(prefix="/backfills", tags=["backfills"])

_EXPERIMENT = f"^$|{NAME}"
BackfillNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="The number of a backfill.")]
FirstDay = Annotated[date, Query(description="Of the first night, in the schedule's time zone.")]
LastDay = Annotated[date, Query(description="Of the last night, which is one of them.")]
ExperimentName = Annotated[
    str, Query(pattern=_EXPERIMENT, description="NAME of experiments/NAME.yaml; empty: config.yaml's.")
]


class BackfillRequest(BaseModel):
    """Which nights are to be made."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"from_date": "2018-03-09", "to_date": "2018-03-13"}]}
    )

    from_date: date = Field(description="Of the first night, in the schedule's time zone.")
    to_date: date = Field(description="Of the last night, which is one of them.")
    experiment: str = Field(
        "", pattern=_EXPERIMENT, description="NAME of experiments/NAME.yaml; empty: config.yaml's."
    )


@router.get("/forecast", responses=problems(404, 409))
def get_forecast(
    from_date: FirstDay, to_date: LastDay, user: TriggerOfAny, experiment: ExperimentName = ""
) -> BackfillForecast:
    """Name the nights of some days, and what those will cost that are missing or have failed.

    The sources are read once for it.
    """
    check_allowed(user, "trigger", experiment)
    return backfills.forecast_backfill(from_date, to_date, experiment)


@router.post("", responses=problems(404, 409, 413))
def create_backfill(
    asked: BackfillRequest, user: TriggerOfAny, idempotency_key: IdempotencyKey = None
) -> BackfillStatus:
    """Start the nights that are missing or have failed: one after another, in order of time.

    A backfill never changes what is in production.
    """
    check_allowed(user, "trigger", asked.experiment)
    check_starter(user, asked.experiment)

    def start() -> BackfillStatus:
        number = backfills.start_backfill(user, asked.from_date, asked.to_date, asked.experiment)
        airflow_actions.note(user, "flywheel_start_backfill", extra=f"{asked.from_date} to {asked.to_date}")
        return backfills.backfill_status(number)

    return idempotency.once(user, "POST /api/backfills", idempotency_key, asked, start)


@router.get("/{number}", responses=problems(404))
def get_backfill(number: BackfillNumber, user: ReaderOfAny) -> BackfillStatus:
    """Show how far a backfill is, and what each night has asked of the teacher."""
    check_allowed(user, "read", backfills.experiment_of_backfill(number))
    return backfills.backfill_status(number)


@router.post("/{number}/cancel", responses=problems(404, 409))
def cancel_backfill(number: BackfillNumber, user: TriggerOfAny) -> BackfillStatus:
    """Let the nights that have not begun be; one that runs goes to its end."""
    check_allowed(user, "trigger", backfills.experiment_of_backfill(number))
    cancelled = backfills.cancel(number)
    airflow_actions.note(user, "flywheel_cancel_backfill", extra=str(number))
    return cancelled
