"""What the stages and jobs of a run gave, gathered from its folder for the report.

A run may lack any of it: label where the records come from an application, jobs that failed or were stopped.
What is there must be whole.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import CHAMPION
from flywheel.jobs.used import Used
from flywheel.report.model import JudgePart
from flywheel.runs.run import Run, seconds_of


class Failure(BaseModel):
    """Why a job has no result, as its runtime told it."""

    model_config = ConfigDict(extra="ignore")

    stage: str = "job"
    reason: str = "no reason was given"


class JobOutcome(BaseModel):
    """What became of a candidate, or of a student before training (size None).

    Attributes:
        icl: the student before training with examples in its prompts; None where that was not asked for.
    """

    student: str
    size: int | None = None
    customize: CustomizeResult | None = None
    evaluate: EvaluateResult | None = None
    failure: Failure | None = None
    icl: EvaluateResult | None = None
    icl_failure: Failure | None = None


class Outcomes(BaseModel):
    """All that a run gave before it is scored.

    Attributes:
        label, ingest, curate: LabelResult, IngestResult and CurateResult as they are in the run's folder, so
            that a report needs none of these stages' libraries; {} where a stage did not run.
        champion: the champion in force, on this run's eval set; None where there is none.
        judge: the judge that rated the answers, whose scores are then among the evaluations'.
        seconds: by stage; overlapping jobs of a stage count once.
        used: by stage before the scoring, and by job, as `1b@25/customize`; older flywheels kept none.
    """

    forecast: dict[str, Any] = Field(default_factory=dict)
    label: dict[str, Any] = Field(default_factory=dict)
    ingest: dict[str, Any] = Field(default_factory=dict)
    curate: dict[str, Any] = Field(default_factory=dict)
    base: list[JobOutcome] = Field(default_factory=list)
    candidates: list[JobOutcome] = Field(default_factory=list)
    champion: EvaluateResult | None = None
    judge: JudgePart | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    used: dict[str, Used] = Field(default_factory=dict)


def gather(run: Run) -> Outcomes:
    """Read what the stages and jobs of a run gave.

    Raises:
        ArtifactError: the run has no plan, or a file of it is damaged.
    """
    plan = run.plan
    return Outcomes(
        forecast=_forecast(run),
        label=_stage(run, "label"),
        ingest=_stage(run, "ingest"),
        curate=_stage(run, "curate"),
        base=[
            JobOutcome(
                student=student,
                evaluate=run.find(f"jobs/{student}/base_eval", EvaluateResult),
                failure=_failure(run, student),
                icl=run.find(f"jobs/{student}/icl_eval", EvaluateResult),
                icl_failure=_failure(run, student, "icl_failure.json") if plan.config.icl_config else None,
            )
            for student in plan.untrained
        ],
        candidates=[
            JobOutcome(
                student=candidate.student,
                size=candidate.size,
                customize=run.find(f"jobs/{candidate.folder}/customize", CustomizeResult),
                evaluate=run.find(f"jobs/{candidate.folder}/evaluate", EvaluateResult),
                failure=_failure(run, candidate.folder),
            )
            for candidate in run.candidates
        ],
        champion=run.find(f"jobs/{CHAMPION}/champion_eval", EvaluateResult),
        seconds={
            stage: seconds_of(times)
            for stage, times in run.intervals().items()
            if stage not in ("score", "promote")  # of an earlier scoring of this run
        },
        used=_used(run),
    )


def _used(run: Run) -> dict[str, Used]:
    students = [f"{student}/{kind}" for student in run.plan.untrained for kind in ("base_eval", "icl_eval")]
    jobs = [f"{one.folder}/{kind}" for one in run.candidates for kind in ("customize", "evaluate")]
    places = {name: f"stages/{name}" for name in ("label", "ingest", "curate")}
    places |= {name: f"jobs/{name}" for name in (*students, *jobs, f"{CHAMPION}/champion_eval")}
    return {name: used for name, place in places.items() if (used := run.used(place)) is not None}


def _stage(run: Run, name: str) -> dict[str, Any]:
    path = f"{run.path}/stages/{name}.json"
    found: dict[str, Any] = run.root.read_json(path)["result"] if run.root.exists(path) else {}
    return found


def _forecast(run: Run) -> dict[str, Any]:
    path = f"{run.path}/forecast.json"
    found: dict[str, Any] = run.root.read_json(path) if run.root.exists(path) else {}
    return found


def _failure(run: Run, folder: str, name: str = "failure.json") -> Failure | None:
    path = f"{run.path}/jobs/{folder}/{name}"
    return Failure.model_validate(run.root.read_json(path)) if run.root.exists(path) else None
