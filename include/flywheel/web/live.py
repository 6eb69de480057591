"""What the jobs of a run are doing: from their files in the run's folder and their tasks in Airflow."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from flywheel.jobs.result import EvaluateResult, LossPoint
from flywheel.jobs.spec import CHAMPION
from flywheel.runs.plan import Candidate, Plan
from flywheel.runs.run import Run
from flywheel.web import run_files
from flywheel.web.airflow_runs import AirflowTask
from flywheel.web.summaries import utc
from flywheel.workloads.metrics import main_metric

JobState = Literal["waiting", "queued", "running", "retrying", "done", "failed", "skipped", "cancelled"]

_STATES: dict[str, JobState] = {
    "none": "waiting",
    "scheduled": "waiting",
    "queued": "queued",
    "running": "running",
    "deferred": "running",
    "awaiting_input": "running",
    "restarting": "retrying",
    "up_for_retry": "retrying",
    "up_for_reschedule": "retrying",
    "success": "done",
    "failed": "failed",
    "upstream_failed": "skipped",
    "skipped": "skipped",
    "removed": "skipped",
}
_ENDED = ("done", "failed", "skipped", "cancelled")


class TaskLink(BaseModel):
    """Where a job's task, with its log, is in Airflow's UI and API."""

    task_id: str
    map_index: int
    try_number: int
    state: str = Field(description="As Airflow calls it.")
    url: str = Field(description="Path of the task's page in Airflow's UI.")


class LiveJob(BaseModel):
    """A job: customize, evaluate, base_eval or champion_eval."""

    state: JobState = "waiting"
    progress: float = Field(0.0, ge=0, le=1, description="The share that is done.")
    seconds_left: float | None = Field(None, description="Estimated; null: not known, or ended.")
    step: int | None = Field(None, description="Optimizer steps taken, or prompts answered.")
    steps: int | None = None
    records_per_second: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    found: bool = Field(False, description="An earlier run had done it.")
    error: str | None = None
    task: TaskLink | None = None


class Customize(LiveJob):
    """A customization job, with its loss curve."""

    losses: list[LossPoint] = Field(default_factory=list)
    adapter: str | None = None
    train_seconds: float | None = None
    val_loss: float | None = None


class Evaluate(LiveJob):
    """An evaluation job, with its scores as soon as they are known."""

    score: float | None = Field(None, description="By the metric of the workload's type.")
    score_ci95: tuple[float, float] | None = None
    scores: dict[str, float] = Field(default_factory=dict, description="By metric, all that were measured.")
    unparsable: int | None = None
    evaluation: str | None = None


class StudentJobs(BaseModel):
    """The jobs of a candidate, of a student before training, or of the champion in force."""

    kind: Literal["candidate", "base", "icl", "champion"]
    student: str
    size: int | None = None
    name: str = Field(description="For people: `1b @ 5000`.")
    state: JobState = Field(description="Of all its jobs together.")
    customize: Customize | None = None
    evaluate: Evaluate


class StageTask(BaseModel):
    """A stage of the run that is one task."""

    name: str
    state: JobState
    started_at: datetime | None = None
    ended_at: datetime | None = None
    task: TaskLink | None = None


STAGES = ("plan", "label", "ingest", "curate", "score", "review", "promote")


def jobs_of(run: Run, plan: Plan, tasks: list[AirflowTask], *, cancelled: bool) -> list[StudentJobs]:
    """Return the jobs of a run, in the order of its table: students as in the config, sizes rising.

    Args:
        cancelled: a person has stopped the run.
    """
    order = {student: index for index, student in enumerate(plan.students)}
    decided = run.candidates
    candidates = sorted(decided, key=lambda one: (order.get(one.student, 0), one.size))
    names = _file_names(plan, candidates)
    files = dict(
        zip(names, run_files.side_by_side(lambda name: run_files.read_json(run, name), names), strict=True)
    )
    found = {(task.task_id.rsplit(".", 1)[-1], task.map_index): task for task in tasks}
    reader = _JobReader(run.run_id, files, found, cancelled)
    rows = [reader.base(student, index) for index, student in enumerate(plan.untrained)]
    if plan.config.icl_config is not None:
        rows += [reader.icl(student, index) for index, student in enumerate(plan.untrained)]
    index_of = {candidate: index for index, candidate in enumerate(decided)}
    rows += [reader.candidate(candidate, index_of[candidate]) for candidate in candidates]
    champion = reader.champion()
    return rows if champion is None else [*rows, champion]


def stages_of(run: Run, tasks: list[AirflowTask], *, cancelled: bool) -> list[StageTask]:
    """Return the stages of a run that are one task each."""
    found = {task.task_id: task for task in tasks}
    files = ["plan.json", *(f"stages/{name}.json" for name in STAGES if name != "plan")]
    given = dict(
        zip(STAGES, run_files.side_by_side(lambda file: run_files.read_json(run, file), files), strict=True)
    )
    stages = []
    for name in STAGES:
        task, gave = found.get(name), given[name]
        state = _state(task, cancelled)
        if task is None and gave is not None:
            state = "done"  # by hand
        stages.append(
            StageTask(
                name=name,
                state=state,
                started_at=task.started_at if task else utc((gave or {}).get("started_at")),
                ended_at=task.ended_at if task else utc((gave or {}).get("ended_at")),
                task=_link(run.run_id, task),
            )
        )
    return stages


def _file_names(plan: Plan, candidates: list[Candidate]) -> list[str]:
    folders: list[tuple[str, tuple[str, ...]]] = [(CHAMPION, ("champion_eval",))]
    before = ("base_eval", "icl_eval") if plan.config.icl_config else ("base_eval",)
    folders += [(student, before) for student in plan.untrained]
    folders += [(candidate.folder, ("customize", "evaluate")) for candidate in candidates]
    names = []
    for folder, stages in folders:
        names += [f"jobs/{folder}/failure.json", f"jobs/{folder}/icl_failure.json"]
        for stage in stages:
            names += [f"jobs/{folder}/{stage}.json", f"jobs/{folder}/{stage}.progress.json"]
    return names


class _JobReader:
    """Makes jobs out of a run's files and tasks."""

    def __init__(
        self,
        run_id: str,
        files: dict[str, Any],
        tasks: dict[tuple[str, int], AirflowTask],
        cancelled: bool,
    ) -> None:
        self._run_id = run_id
        self._files = files
        self._tasks = tasks
        self._cancelled = cancelled

    def base(self, student: str, index: int) -> StudentJobs:
        """Return the job of a student before training."""
        evaluate = self._evaluate(student, "base_eval", self._task("base_eval", index))
        return StudentJobs(
            kind="base", student=student, name=student, state=evaluate.state, evaluate=evaluate
        )

    def icl(self, student: str, index: int) -> StudentJobs:
        """Return the job of a student before training, with examples in its prompts."""
        evaluate = self._evaluate(student, "icl_eval", self._task("icl_eval", index))
        return StudentJobs(
            kind="icl",
            student=student,
            name=f"{student} with examples",
            state=evaluate.state,
            evaluate=evaluate,
        )

    def champion(self) -> StudentJobs | None:
        """Return the job of the champion in force; None where there is nothing to measure."""
        task = self._task("champion_eval", -1)
        result = self._result(CHAMPION, "champion_eval")
        if result is None and (task is None or _STATES.get(task.state) == "skipped"):
            return None
        evaluate = self._evaluate(CHAMPION, "champion_eval", task)
        student = result["result"]["student"] if result else ""
        size = result["result"]["size"] if result else None
        return StudentJobs(
            kind="champion",
            student=student,
            size=size,
            name="champion in force",
            state=evaluate.state,
            evaluate=evaluate,
        )

    def candidate(self, candidate: Candidate, index: int) -> StudentJobs:
        """Return the jobs of a candidate."""
        folder = candidate.folder
        customize = self._customize(folder, self._task("customize", index))
        evaluate = self._evaluate(folder, "evaluate", self._task("evaluate", index))
        state = evaluate.state
        if customize.state != "done" and state != "done":
            state = customize.state
        elif state == "waiting":
            state = "queued"  # trained, and its evaluation is to come
        return StudentJobs(
            kind="candidate",
            student=candidate.student,
            size=candidate.size,
            name=candidate.name,
            state=state,
            customize=customize,
            evaluate=evaluate,
        )

    def _customize(self, folder: str, task: AirflowTask | None) -> Customize:
        job = Customize.model_validate(self._job(folder, "customize", task))
        progress = self._progress(folder, "customize") if job.state not in _ENDED else None
        if progress:
            job.losses = [LossPoint.model_validate(point) for point in progress.get("losses", [])]
        result = self._result(folder, "customize")
        if result is not None and job.state == "done":
            made = result["result"]
            job.losses = [LossPoint.model_validate(point) for point in made["losses"]]
            job.adapter, job.found = made["adapter"], made["steps_run"] == 0
            job.step = job.steps = made["steps"]
            job.train_seconds, job.val_loss = made["train_seconds"], made["val_loss"]
            job.records_per_second = made["records_per_second"]
        return job

    def _evaluate(self, folder: str, stage: str, task: AirflowTask | None) -> Evaluate:
        job = Evaluate.model_validate(self._job(folder, stage, task))
        result = self._result(folder, stage)
        if result is not None and job.state == "done":
            made = EvaluateResult.model_validate(result["result"])
            main = main_metric(made.workload_type).name
            job.score, job.score_ci95 = made.scores.get(main), made.intervals.get(main)
            job.scores = made.scores
            job.unparsable, job.evaluation = made.unparsable, made.key
            job.found, job.records_per_second = made.found, made.records_per_second
            job.step = job.steps = made.records
        return job

    def _job(self, folder: str, stage: str, task: AirflowTask | None) -> dict[str, Any]:
        """Return what all jobs have in common."""
        state = _state(task, self._cancelled)
        result = self._result(folder, stage)
        if result is not None and state in ("waiting", "running"):
            state = "done"  # by hand, or its task is about to end
        job: dict[str, Any] = {
            "state": state,
            "task": _link(self._run_id, task),
            "started_at": task.started_at if task else None,
            "ended_at": task.ended_at if task and state in _ENDED else None,
        }
        if state == "done":
            job["progress"] = 1.0
            if result is not None:
                job |= {"started_at": utc(result["started_at"]), "ended_at": utc(result["ended_at"])}
        elif state not in _ENDED and (progress := self._progress(folder, stage)):
            steps = progress.get("steps") or 0
            job["step"], job["steps"] = progress.get("step"), steps
            job["progress"] = min(1.0, progress.get("step", 0) / steps) if steps else 0.0
            job["seconds_left"] = progress.get("seconds_left")
            job["records_per_second"] = progress.get("records_per_second")
        failed = "icl_failure.json" if stage == "icl_eval" else "failure.json"
        failure = self._files.get(f"jobs/{folder}/{failed}")
        if isinstance(failure, dict) and state != "done" and failure.get("stage") in (stage, "curate"):
            job["error"] = str(failure.get("reason"))
        return job

    def _task(self, name: str, index: int) -> AirflowTask | None:
        """Return the task of a job: before its task is expanded, that which stands for all."""
        return self._tasks.get((name, index)) or self._tasks.get((name, -1))

    def _result(self, folder: str, stage: str) -> Any:
        result = self._files.get(f"jobs/{folder}/{stage}.json")
        return result if isinstance(result, dict) else None

    def _progress(self, folder: str, stage: str) -> Any:
        progress = self._files.get(f"jobs/{folder}/{stage}.progress.json")
        return progress if isinstance(progress, dict) else None


def _state(task: AirflowTask | None, cancelled: bool) -> JobState:
    state = _STATES.get(task.state, "waiting") if task else "waiting"
    return "cancelled" if cancelled and state != "done" else state


def _link(run_id: str, task: AirflowTask | None) -> TaskLink | None:
    if task is None:
        return None
    return TaskLink(
        task_id=task.task_id,
        map_index=task.map_index,
        try_number=task.try_number,
        state=task.state,
        url=task.url(run_id),
    )
