"""/api/jobs: the orchestrator API that clients of the NVIDIA Data Flywheel Blueprint call."""

from __future__ import annotations

import hashlib
import uuid
from functools import partial
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request

from flywheel.common.errors import ConfigError
from flywheel.config.experiments import dag_id_of
from flywheel.config.overrides import override_config
from flywheel.runs.names import run_id_of
from flywheel.web import (
    airflow_actions,
    airflow_runs,
    cancelling,
    deletion,
    idempotency,
    job_view,
    settings,
    summaries,
)
from flywheel.web.access import Deleter, Reader, Trigger, TriggerOfAny, check_allowed, check_starter, readable
from flywheel.web.contract import (
    JobCancelResponse,
    JobDeleteResponse,
    JobDetailResponse,
    JobListItem,
    JobRequest,
    JobResponse,
    JobsListResponse,
)
from flywheel.web.idempotency import IdempotencyKey
from flywheel.web.problems import InvalidRequest, Problem, invalid
from flywheel.web.routes.parts import JobId, Limit, Offset, existing_run, problems
from flywheel.workloads.experiments import experiment_for

router = APIRouter(prefix="/jobs", tags=["jobs"])
_items: summaries.KeptRows[JobListItem] = summaries.KeptRows()


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the problems of a route of the contract: its 422 is the contract's own."""
    return {**problems(*statuses), 422: {"model": InvalidRequest, "description": "Validation Error"}}


@router.post("", responses=_problems(400, 409, 413))
def create_job(
    asked: JobRequest,
    request: Request,
    user: TriggerOfAny,
    idempotency_key: IdempotencyKey = None,
) -> JobResponse:
    """Start a job: a run of the experiment of this workload and client, else of config.yaml's for them."""
    experiment = experiment_for(asked.workload_id, asked.client_id)
    check_allowed(user, "trigger", experiment)
    check_starter(user, experiment)

    def start() -> JobResponse:
        dag_id = dag_id_of(experiment)
        job_id = run_id_of(f"api__{_job_number(user, idempotency_key)}", dag_id)
        there = airflow_runs.find_run(job_id) if idempotency_key else None
        if there is not None:  # its answer is no longer kept, or another process has just started it
            return job_view.started(there)
        conf: dict[str, Any] = {"workload_id": asked.workload_id, "client_id": asked.client_id}
        if asked.data_split_config is not None:
            split = asked.data_split_config.model_dump(
                exclude={"parse_function_arguments"}, exclude_unset=True
            )
            if split.get("random_seed") is None:
                split.pop("random_seed", None)
            conf["overrides"] = {"data_split_config": split}
            _check(conf["overrides"], experiment)
        runs_now = airflow_actions.start_run(user, request, job_id, conf)
        message = "The job has been queued." if runs_now else "The job is queued until its DAG is unpaused."
        return JobResponse(id=job_id, status="queued", message=message)

    return idempotency.once(user, "POST /api/jobs", idempotency_key, asked, start)


@router.get("", responses=problems())
def list_jobs(user: Reader, limit: Limit = 1000, offset: Offset = 0) -> JobsListResponse:
    """List the jobs, active and ended, the latest first; without parameters the last 1,000."""
    may_read = readable(user)
    jobs = [(line, summary) for line, summary in summaries.list_runs() if may_read(line.experiment)]
    return JobsListResponse.model_construct(
        jobs=[
            job_view.list_item(line, summary)
            if line.ended_at is None
            else _items.of(line, summary, partial(job_view.list_item, line, summary))
            for line, summary in jobs[offset : offset + limit]
        ]
    )


@router.get("/{job_id}", responses=_problems(404))
def get_job(job_id: JobId, _: Reader) -> JobDetailResponse:
    """Show a job: its status, and each student's deployment, customizations and evaluations, as of now."""
    return job_view.detail(existing_run(job_id))


@router.post("/{job_id}/cancel", responses=_problems(400, 404, 409))
def cancel_job(
    job_id: JobId,
    background: BackgroundTasks,
    user: Trigger,
    idempotency_key: IdempotencyKey = None,
) -> JobCancelResponse:
    """Stop a job: its tasks, and the processes or pods of its jobs, end within seconds.

    A job that has ended cannot be cancelled; cancelling one twice is cancelling it once.
    """
    found = existing_run(job_id)
    (summary,) = summaries.summaries_of([found])
    if summary.cancelled is not None:
        return JobCancelResponse(id=job_id, message="The job is cancelled already.")
    if found.is_done:
        raise Problem(400, "A job that has ended cannot be cancelled.")
    cancelling.cancel(user, found)
    background.add_task(cancelling.make_sure, job_id)
    return JobCancelResponse(id=job_id, message="The job is being stopped.")


@router.delete("/{job_id}", responses=_problems(400, 404))
def delete_job(job_id: JobId, background: BackgroundTasks, user: Deleter) -> JobDeleteResponse:
    """Remove a job that has ended, with what it alone has made.

    Adapters, evaluations and datasets that another job or a champion uses stay. The job is gone from the list
    when all of that is done.
    """
    found = existing_run(job_id)
    if not found.is_done:
        raise Problem(400, "A running job cannot be deleted: cancel it first.")
    background.add_task(deletion.delete, user, found)
    return JobDeleteResponse(id=job_id, message="The job is being removed.")


def _check(overrides: dict[str, Any], experiment: str) -> None:
    """Refuse at once what the run's plan would refuse.

    Raises:
        RequestValidationError: with the sentence.
    """
    config = settings.config_of(experiment)
    try:
        override_config(config, overrides)
    except ConfigError as error:
        raise invalid("data_split_config", str(error)) from None


def _job_number(user: Any, key: str | None) -> str:
    """Return the unique part of a job's id: the same for the same key, so that no race starts two."""
    if key is None:
        return uuid.uuid4().hex[:24]
    return hashlib.sha256(f"{user.get_id()}\0{key}".encode()).hexdigest()[:24]
