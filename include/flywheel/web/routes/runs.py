"""GET /api/runs: the runs, and what one of them found out or is about to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from flywheel.config.metrics import MetricName
from flywheel.report.model import BestPart, CandidatePart, Report
from flywheel.runs.failures import RunFailure, failures_of, foremost
from flywheel.runs.run import Run
from flywheel.web import airflow_runs, live, run_files, summaries
from flywheel.web.access import Reader, check_allowed, readable, requires
from flywheel.web.links import Links, links_of
from flywheel.web.predictions import Disagreement, disagreements, labels_of
from flywheel.web.problems import Problem
from flywheel.web.review import Review, review_of
from flywheel.web.routes.parts import (
    ExperimentName,
    Limit,
    Offset,
    RunId,
    Size,
    StudentName,
    Text,
    evaluation_of,
    existing_run,
    planned_run,
    problems,
)
from flywheel.web.stuck import stuck_of
from flywheel.web.summaries import CandidateOfRun, RunLine, RunState

router = APIRouter(tags=["runs"], dependencies=[requires("read")])


class RunLines(BaseModel):
    """A page of runs, and how many there are in all."""

    runs: list[RunLine]
    total: int


class RunDetail(RunLine):
    """A run, with its report once it is scored and its jobs as they are now.

    `report` is report.json of the run; it is null until the run is scored.
    """

    approval: str | None = Field(None, description="Who decides about the promotion: automatic or human.")
    stages: list[live.StageTask]
    jobs: list[live.StudentJobs]
    review: Review | None
    report: Report | None
    links: Links
    error: str | None = Field(None, description="Why the run has no table, where it has ended without one.")


@router.get("/runs", responses=problems())
def list_runs(
    user: Reader,
    limit: Limit = 50,
    offset: Offset = 0,
    state: Annotated[list[RunState] | None, Query(description="Only runs in these states.")] = None,
    workload: Text = None,
    client: Text = None,
    experiment: ExperimentName = None,
) -> RunLines:
    """List the runs, the latest first."""
    may_read = readable(user)
    lines = [
        line
        for line, _ in summaries.list_runs()
        if may_read(line.experiment)
        and (experiment is None or line.experiment == experiment)
        and (not state or line.state in state)
        and (workload is None or line.workload_id == workload)
        and (client is None or line.client_id == client)
    ]
    return RunLines.model_construct(runs=lines[offset : offset + limit], total=len(lines))


@router.get("/runs/{run_id}", responses=problems(404))
def get_run(run_id: RunId) -> RunDetail:
    """Show a run: its report once it is scored, and the state of each stage and job."""
    found = existing_run(run_id)
    (summary,) = summaries.summaries_of([found])
    folder = run_files.run_of(found)
    plan, report = run_files.read_plan(folder), run_files.read_report(folder)
    tasks = airflow_runs.tasks_of(run_id)
    review = review_of(run_id)
    cancelled = summary.cancelled is not None
    line = summaries.line_of(found, summary, review is not None and review.state == "waiting")
    if not found.is_done and not cancelled:
        line.failure = now_failed(folder, tasks) or stuck_of(found, folder, tasks)
    return RunDetail(
        **line.model_dump(),
        approval=plan.approval if plan else None,
        stages=live.stages_of(folder, tasks, cancelled=cancelled),
        jobs=live.jobs_of(folder, plan, tasks, cancelled=cancelled) if plan else [],
        review=review,
        report=report,
        links=links_of(found, report),
        error=(summary.error or None) if found.is_done else None,
    )


def now_failed(folder: Run, tasks: list[airflow_runs.AirflowTask]) -> RunFailure | None:
    """Return the foremost failure of a run that goes on, of the tasks whose present try has failed.

    A task says why it has failed some seconds before its process is gone and Airflow calls it failed.
    """
    states = {(task.task_id, task.map_index): task for task in tasks}

    def counts(failure: RunFailure) -> bool:
        task = states.get((failure.task_id, failure.map_index))
        if task is None:
            return False
        is_this_try = task.state == "running" and task.try_number == failure.try_number
        return is_this_try or task.state in ("failed", "up_for_retry")

    return foremost(filter(counts, failures_of(folder)))


class Disagreements(BaseModel):
    """A page of headlines that the student labels otherwise than the teacher."""

    disagreements: list[Disagreement]
    total: int
    records: int = Field(description="Headlines of the eval set.")
    by_label: dict[str, int] = Field(description="All disagreements by the teacher's label, the most first.")


@router.get("/runs/{run_id}/disagreements", responses=problems(404))
def get_disagreements(
    run_id: RunId,
    student: StudentName,
    size: Size = None,
    label: Annotated[Text, Query(description="Only those that the teacher labels so.")] = None,
    answered: Annotated[Text, Query(description="Only those that the student labels so.")] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Disagreements:
    """List the headlines of the eval set that a candidate labels otherwise than the teacher."""
    run, plan = planned_run(run_id)
    result = evaluation_of(run, plan, student, size)
    if not run.root.find("evaluations", result["key"]):
        raise Problem(404, "The answers of that evaluation are no longer there.")
    rows = disagreements(run.root.url, result["key"])
    chosen = [
        row
        for row in rows
        if (label is None or label in (row.group, row.teacher))
        and (answered is None or row.student == answered)
    ]
    return Disagreements.model_construct(
        disagreements=chosen[offset : offset + limit],
        total=len(chosen),
        records=result["records"],
        by_label=labels_of(run.root.url, result["key"]),
    )


class ClassLine(BaseModel):
    """How well one class is found."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class ConfusionMatrix(BaseModel):
    """Counts of eval records: a row for each class of the teacher, a column for each answer."""

    student: str
    size: int | None
    records: int
    scores: dict[str, float] = Field(description="By metric, all that were measured.")
    labels: list[str]
    columns: list[str] = Field(description="The labels and, last, `no class`: answers that name none.")
    matrix: list[list[int]]
    per_class: list[ClassLine]


@router.get("/runs/{run_id}/confusion", responses=problems(404))
def get_confusion(run_id: RunId, student: StudentName, size: Size = None) -> ConfusionMatrix:
    """Show which classes a candidate takes for which, and how well it finds each."""
    run, plan = planned_run(run_id)
    result = evaluation_of(run, plan, student, size)
    confusion = result["confusion"]
    return ConfusionMatrix(
        student=student,
        size=size,
        records=result["records"],
        scores=result["scores"],
        labels=confusion["labels"],
        columns=[*confusion["labels"], "no class"],
        matrix=confusion["matrix"],
        per_class=[ClassLine(label=label, **score) for label, score in result["per_class"].items()],
    )


class ComparedRun(RunLine):
    """One of the runs that are compared."""

    created_at: datetime
    dataset: str | None
    eval_records: int | None
    rows: list[CandidatePart]
    best_classes: BestPart | None


class ComparedCandidate(BaseModel):
    """A candidate in each of the runs; null where a run has no result of it."""

    student: str
    size: int
    score: list[float | None]
    change: float | None = Field(description="The last run's score less the first's, by the same metric.")
    significant: bool = Field(description="Their 95 % intervals do not overlap.")


class Comparison(BaseModel):
    """Runs side by side."""

    runs: list[ComparedRun]
    same_eval_set: bool = Field(description="All were measured on the same held-out records.")
    candidates: list[ComparedCandidate]


@router.get("/compare", responses=problems(404))
def compare(
    user: Reader,
    runs: Annotated[
        str,
        Query(
            max_length=2600, description="Two to ten runs, with commas between.", examples=["night-1,night-2"]
        ),
    ],
) -> Comparison:
    """Put the tables of runs side by side."""
    ids = list(dict.fromkeys(part.strip() for part in runs.split(",") if part.strip()))
    if not 2 <= len(ids) <= 10:
        raise Problem(422, "runs: two to ten different run ids, with commas between, are expected.")
    compared, reports = [], []
    for run_id in ids:
        found = existing_run(run_id)
        check_allowed(user, "read", found.experiment)
        (summary,) = summaries.summaries_of([found])
        report = run_files.read_report(run_files.run_of(found))
        if report is None:
            raise Problem(404, f"Run {run_id} has no report yet.")
        reports.append(report)
        line = summaries.line_of(found, summary, False)
        compared.append(
            ComparedRun(
                **line.model_dump(),
                created_at=datetime.fromisoformat(report.created_at),
                dataset=report.data.dataset,
                eval_records=report.data.eval,
                rows=report.candidates,
                best_classes=report.best,
            )
        )
    return Comparison(
        runs=compared,
        same_eval_set=len({report.data.dataset for report in reports}) == 1,
        candidates=_compared(reports),
    )


def _compared(reports: list[Report]) -> list[ComparedCandidate]:
    names = dict.fromkeys((row.student, row.size) for report in reports for row in report.candidates)
    found = []
    for student, size in names:
        rows = [report.candidate(student, size) for report in reports]
        values = [row.score if row else None for row in rows]
        same = reports[0].metric.name == reports[-1].metric.name
        first, last = rows[0], rows[-1]
        change = None
        if same and values[0] is not None and values[-1] is not None:
            change = values[-1] - values[0]
        apart = False
        if same and first and last and first.score_ci95 and last.score_ci95:
            (low, high), (other_low, other_high) = first.score_ci95, last.score_ci95
            apart = high < other_low or other_high < low
        found.append(
            ComparedCandidate(
                student=student,
                size=size,
                score=values,
                change=change,
                significant=apart,
            )
        )
    return found


class CandidateLines(BaseModel):
    """A page of candidates over all runs."""

    candidates: list[CandidateOfRun]
    total: int


Sort = Literal["started_at", "score", "size", "student", "parameters", "latency_p50_ms", "train_seconds"]


@router.get("/candidates", responses=problems())
def list_candidates(
    user: Reader,
    student: Annotated[str | None, Query(max_length=40)] = None,
    size: Size = None,
    metric: Annotated[
        MetricName | None,
        Query(description="Whose score counts; without it that which each run compares by."),
    ] = None,
    min_score: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)] = None,
    state: Annotated[Literal["scored", "failed", "unavailable", "missing", "planned"] | None, Query()] = None,
    workload: Text = None,
    client: Text = None,
    run: Text = None,
    experiment: ExperimentName = None,
    sort: Annotated[Sort, Query(description="What to sort by.")] = "started_at",
    order: Literal["ascending", "descending"] = "descending",
    limit: Limit = 50,
    offset: Offset = 0,
) -> CandidateLines:
    """List the candidates of all runs, filtered and sorted; those without a value to sort by come last."""

    def score(row: CandidateOfRun) -> float | None:
        return row.score if metric is None else row.scores.get(metric)

    may_read = readable(user)
    rows = [
        row
        for row in summaries.list_candidates()
        if may_read(row.experiment)
        and (experiment is None or row.experiment == experiment)
        and (workload is None or row.workload_id == workload)
        and (client is None or row.client_id == client)
        and (run is None or row.run_id == run)
        and (student is None or row.student == student)
        and (size is None or row.size == size)
        and (state is None or row.state == state)
        and (min_score is None or ((reached := score(row)) is not None and reached >= min_score))
    ]
    value: Callable[[CandidateOfRun], Any] = score if sort == "score" else attrgetter(sort)
    known = [row for row in rows if value(row) is not None]
    known.sort(key=value, reverse=order == "descending")
    rest = [row for row in rows if value(row) is None]
    page = [*known, *rest][offset : offset + limit]
    return CandidateLines.model_construct(candidates=page, total=len(rows))
