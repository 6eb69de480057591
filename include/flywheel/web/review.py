"""The review of a run's choice: the human-in-the-loop task of the DAG, as Airflow has it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from flywheel.web import airflow_runs

APPROVE, REJECT = "Approve", "Reject"


class Review(BaseModel):
    """A review that a person is, or was, asked for."""

    state: Literal["waiting", "approved", "rejected", "ended"] = Field(
        description="ended: its task is over without an answer."
    )
    subject: str
    body: str = Field(description="The table of the run, in Markdown.")
    asked_at: datetime
    answered_at: datetime | None = None
    answered_by: str | None = None
    comment: str = ""


def review_of(run_id: str) -> Review | None:
    """Return the review of a run; None where nobody is asked, or not yet."""
    asked = airflow_runs.review_of(run_id)
    if asked is None:
        return None
    state: Literal["waiting", "approved", "rejected", "ended"] = "ended"
    if asked.answered_at is not None:
        state = "approved" if APPROVE in asked.chosen else "rejected"
    elif asked.task_state in airflow_runs.WAITING_STATES:
        state = "waiting"
    return Review(
        state=state,
        subject=asked.subject,
        body=asked.body,
        asked_at=asked.asked_at,
        answered_at=asked.answered_at,
        answered_by=asked.answered_by,
        comment=asked.comment,
    )
