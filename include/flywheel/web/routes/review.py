"""/api/runs/{run_id}/review: what a person is asked about a run, and what they say."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from flywheel.web import airflow_actions, idempotency, run_files, summaries
from flywheel.web.access import Reader, Reviewer, check_four_eyes
from flywheel.web.idempotency import IdempotencyKey
from flywheel.web.problems import Problem
from flywheel.web.review import APPROVE, REJECT, Review, review_of
from flywheel.web.routes.parts import RunId, existing_run, problems

router = APIRouter(tags=["review"])

_SETTLED_SECONDS = 5.0


class Verdict(BaseModel):
    """What a person says to the promotion of a run's choice."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"decision": "approve", "comment": "read 50 of them"}]},
    )

    decision: Literal["approve", "reject"]
    comment: str = Field("", max_length=1000, pattern=r"^[^\x00]*$")


@router.get("/runs/{run_id}/review", responses=problems(404))
def get_review(run_id: RunId, _: Reader) -> Review:
    """Show what a person is asked, or was."""
    existing_run(run_id)
    review = review_of(run_id)
    if review is None:
        raise Problem(404, "Nobody is asked about this run.")
    return review


@router.post("/runs/{run_id}/review", responses=problems(404, 409))
def post_review(
    run_id: RunId, verdict: Verdict, user: Reviewer, idempotency_key: IdempotencyKey = None
) -> Review:
    """Approve or reject the promotion of a run's choice; the run then goes on."""
    found = existing_run(run_id)
    plan = run_files.read_plan(run_files.run_of(found))
    if verdict.decision == "approve" and plan is not None:
        check_four_eyes(user, found.user, plan)

    def answer() -> Review:
        review = review_of(run_id)
        if review is None:
            raise Problem(404, "Nobody is asked about this run.")
        if review.state != "waiting":
            raise Problem(409, f"The review is over: {review.state}.")
        _let_it_settle(review.asked_at)
        option = APPROVE if verdict.decision == "approve" else REJECT
        airflow_actions.answer_review(user, run_id, option, verdict.comment)
        summaries.forget(run_id)
        answered = review_of(run_id)
        assert answered is not None
        return answered

    return idempotency.once(user, f"POST review {run_id}", idempotency_key, verdict, answer)


def _let_it_settle(asked_at: datetime) -> None:
    """Wait until the task that asks has surely been put aside.

    An answer in the second in which its process ends is lost (Airflow 3.3.2): the scheduler takes that end
    for the end of the task that goes on, and the person is asked again.
    """
    ago = (datetime.now(UTC) - asked_at).total_seconds()
    time.sleep(min(_SETTLED_SECONDS, max(0.0, _SETTLED_SECONDS - ago)))
