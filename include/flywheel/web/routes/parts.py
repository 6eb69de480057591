"""What the routes have in common: their parameters, and how they find what these name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query

from flywheel.config.experiments import NAME as EXPERIMENT
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.web import airflow_runs, run_files
from flywheel.web.airflow_runs import AirflowRun
from flywheel.web.problems import PROBLEM_JSON, Problem, ProblemDetails

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
RUN_ID = r"^[A-Za-z0-9_.~:+@= -]+$"


def _run_id(description: str) -> Any:
    return Path(
        min_length=1,
        max_length=250,
        pattern=RUN_ID,
        description=description,
        examples=["manual__2026-03-01T02:00:00+00:00"],
    )


RunId = Annotated[str, _run_id("The id of a run: Airflow's, after `NAME@` for one of experiments/NAME.yaml.")]
JobId = Annotated[str, _run_id("The id of a job: of its run.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many, at most.")]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000, description="How many to pass over.")]
ExperimentName = Annotated[
    str | None,
    Query(pattern=f"^$|{EXPERIMENT}", description="NAME of experiments/NAME.yaml; empty: config.yaml's."),
]
StudentName = Annotated[str, Query(pattern=NAME, description="Short name of a student.", examples=["1b"])]
Size = Annotated[
    int | None,
    Query(
        ge=1, le=10**9, description="Training records of the candidate; without: the student before training."
    ),
]
Text = Annotated[str | None, Query(max_length=256)]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how a route's document tells of the problems that it may answer with."""
    said = {
        400: "The request cannot be done as things are",
        401: "Not authenticated",
        403: "Not permitted",
        404: "Not found",
        409: "It conflicts with how things are",
        413: "Too large",
        415: "Not a media type that is taken here",
        422: "Not valid",
        429: "Too many requests",
        503: "Something that the API stands on is out of reach",
    }
    schema = {"schema": ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")}
    return {
        status: {"description": said[status], "content": {PROBLEM_JSON: schema}}
        for status in (401, 403, *statuses, 422, 429, 503)
    }


def existing_run(run_id: str) -> AirflowRun:
    """Return a run.

    Raises:
        Problem: there is none.
    """
    found = airflow_runs.find_run(run_id)
    if found is None:
        raise Problem(404, "There is no such run.")
    return found


def planned_run(run_id: str) -> tuple[Run, Plan]:
    """Return a run's folder and plan.

    Raises:
        Problem: there is no such run, or it has no plan yet.
    """
    run = run_files.run_of(existing_run(run_id))
    plan = run_files.read_plan(run)
    if plan is None:
        raise Problem(404, "The run has no plan yet.")
    return run, plan


def evaluation_of(run: Run, plan: Plan, student: str, size: int | None) -> dict[str, Any]:
    """Return the result of an evaluation job: of a candidate or, without a size, of the student itself.

    Raises:
        Problem: the run has no such candidate, or no result of it yet.
    """
    if student not in plan.students:
        raise Problem(404, "The run has no such student.")
    known = {(candidate.student, candidate.size) for candidate in run.candidates}
    if size is not None and (student, size) not in known:
        raise Problem(404, "The run has no such candidate.")
    name = f"jobs/{student}/base_eval.json" if size is None else f"jobs/{student}@{size}/evaluate.json"
    found = run_files.read_json(run, name)
    if found is None:
        raise Problem(404, "There is no result of that yet.")
    result: dict[str, Any] = found["result"]
    return result
