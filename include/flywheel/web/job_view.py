"""A run in the words of the orchestrator API."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

from flywheel.runs.plan import Plan
from flywheel.runs.run import Run, seconds_of
from flywheel.web import airflow_runs, live, run_files, summaries
from flywheel.web.airflow_runs import AirflowRun
from flywheel.web.contract import (
    Customization,
    Dataset,
    DeploymentStatus,
    Evaluation,
    JobDetailResponse,
    JobListItem,
    JobResponse,
    NIMResponse,
    NIMRunStatus,
)
from flywheel.web.links import mlflow_link
from flywheel.web.summaries import RunLine, Summary

_STATUSES = {
    "queued": "queued",
    "running": "running",
    "review": "running",
    "success": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
_BEGUN = ("running", "retrying", "done", "failed", "cancelled")
_OVER = ("done", "failed", "skipped", "cancelled")


def list_item(line: RunLine, summary: Summary) -> JobListItem:
    """Return a run as a line of the list of jobs."""
    return JobListItem.model_construct(
        id=line.run_id,
        workload_id=line.workload_id,
        client_id=line.client_id,
        status=_STATUSES[line.state],
        started_at=line.started_at,
        finished_at=line.ended_at,
        datasets=_datasets(summary),
        error=_error(line, summary, []),
    )


def started(found: AirflowRun) -> JobResponse:
    """Return a run that was started before, as the answer to who asks for it again."""
    states: dict[str, Literal["queued", "running", "completed", "failed"]] = {
        "queued": "queued",
        "running": "running",
        "success": "completed",
    }
    return JobResponse(
        id=found.run_id,
        status=states.get(found.state, "failed"),
        message="The job was started before, under the same Idempotency-Key.",
    )


def detail(found: AirflowRun) -> JobDetailResponse:
    """Return all that is known of a run now, as a job."""
    (summary,) = summaries.summaries_of([found])
    line = summaries.line_of(found, summary, False)
    folder = run_files.run_of(found)
    plan = run_files.read_plan(folder)
    tasks = airflow_runs.tasks_of(found.run_id)
    cancelled = line.state == "cancelled"
    stages = live.stages_of(folder, tasks, cancelled=cancelled)
    return JobDetailResponse(
        id=line.run_id,
        workload_id=line.workload_id,
        client_id=line.client_id,
        status=_STATUSES[line.state],
        started_at=line.started_at,
        finished_at=line.ended_at,
        num_records=summary.records,
        nims=_nims(folder, plan, tasks, cancelled=cancelled) if plan else [],
        datasets=_datasets(summary),
        error=_error(line, summary, stages),
    )


def _datasets(summary: Summary) -> list[Dataset]:
    if summary.dataset is None:
        return []
    return [Dataset(name=summary.dataset, num_records=summary.records)]


def _error(line: RunLine, summary: Summary, stages: list[live.StageTask]) -> str | None:
    if line.state == "cancelled" and summary.cancelled is not None:
        return f"Cancelled by {summary.cancelled.by} at {summary.cancelled.at}."
    if line.state != "failed":
        return None
    if summary.failure is not None:
        return summary.failure.told
    failed = next((stage.name for stage in stages if stage.state == "failed"), None)
    where = f"The stage {failed} failed" if failed else "The job failed"
    why = f": {summary.error}" if summary.error else ""
    return f"{where}{why}. The log of its task has the reason."


def _nims(
    folder: Run, plan: Plan, tasks: list[airflow_runs.AirflowTask], *, cancelled: bool
) -> list[NIMResponse]:
    jobs = live.jobs_of(folder, plan, tasks, cancelled=cancelled)
    report = run_files.read_report(folder)
    mlflow = mlflow_link(report.tracking).url if report and report.tracking else None
    return [
        _nim(
            plan, student, [job for job in jobs if job.student == student and job.kind != "champion"], mlflow
        )
        for student in plan.students
    ]


def _nim(plan: Plan, student: str, jobs: list[live.StudentJobs], mlflow: str | None) -> NIMResponse:
    model_name = plan.config.student(student).model_name
    # The largest size first: the blueprint's notebook draws the first customized evaluation of a model.
    fine_tuned = sorted((job for job in jobs if job.size is not None), key=lambda job: -(job.size or 0))
    jobs = [job for job in jobs if job.size is None] + fine_tuned
    customizations = [
        _customization(plan, model_name, job.size, job.customize)
        for job in jobs
        if job.customize is not None and job.size is not None and job.customize.started_at is not None
    ]
    evaluations = [
        _evaluation(job, mlflow) for job in jobs if job.evaluate is not None and job.evaluate.started_at
    ]
    status = _status(jobs)
    errors = [part.error for job in jobs for part in (job.customize, job.evaluate) if part and part.error]
    return NIMResponse(
        model_name=model_name,
        status=status,
        deployment_status=_deployment(status, jobs),
        runtime_seconds=_seconds(jobs),
        evaluations=evaluations,
        customizations=customizations,
        error=errors[0] if errors else None,
    )


def _status(jobs: list[live.StudentJobs]) -> NIMRunStatus:
    states = [job.state for job in jobs]
    if "cancelled" in states:
        return "cancelled"
    if all(state in _OVER for state in states):
        return "completed" if "done" in states else "failed"
    return "running-evals" if any(state in _BEGUN for state in states) else "pending"


def _deployment(status: NIMRunStatus, jobs: list[live.StudentJobs]) -> DeploymentStatus:
    """Return whether the student is loaded, as it is by each of its jobs: there is no server to deploy."""
    if status == "running-evals":
        return "ready" if any(job.state in ("running", "done") for job in jobs) else "pending"
    known: dict[NIMRunStatus, DeploymentStatus] = {
        "pending": "pending",
        "cancelled": "cancelled",
        "completed": "completed",
        "failed": "failed",
    }
    return known[status]


def _seconds(jobs: list[live.StudentJobs]) -> float:
    times = [
        (part.started_at.timestamp(), (part.ended_at or datetime.now(UTC)).timestamp())
        for job in jobs
        for part in (job.customize, job.evaluate)
        if part is not None and part.started_at is not None
    ]
    return round(seconds_of(times), 3)


def _runtime(job: live.LiveJob) -> float:
    assert job.started_at is not None
    return round(max(0.0, ((job.ended_at or datetime.now(UTC)) - job.started_at).total_seconds()), 3)


def _customization(plan: Plan, model_name: str, size: int, job: live.Customize) -> Customization:
    assert job.started_at is not None
    steps, training = job.step or 0, plan.config.training_config
    epochs = steps // math.ceil(size / training.batch_size)
    return Customization(
        started_at=job.started_at,
        finished_at=job.ended_at,
        runtime_seconds=_runtime(job),
        progress=round(100 * job.progress, 2),
        epochs_completed=epochs,
        steps_completed=steps,
        customized_model=f"{model_name}@{job.adapter}" if job.adapter else None,
        error=job.error,
    )


def _evaluation(job: live.StudentJobs, mlflow: str | None) -> Evaluation:
    evaluate = job.evaluate
    assert evaluate.started_at is not None
    scores = {
        **evaluate.scores,
        "f1_score": evaluate.scores.get("f1_weighted"),
        "training_records": job.size if evaluate.score is not None else None,
    }
    return Evaluation(
        eval_type={"base": "base-eval", "icl": "icl-eval"}.get(job.kind, "customized-eval"),
        scores={name: float(score) for name, score in scores.items() if score is not None},
        started_at=evaluate.started_at,
        finished_at=evaluate.ended_at,
        runtime_seconds=_runtime(evaluate),
        progress=round(100 * evaluate.progress, 2),
        mlflow_uri=mlflow if evaluate.state == "done" else None,
        error=evaluate.error,
    )
