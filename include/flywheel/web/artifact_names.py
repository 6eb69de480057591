"""Which artifacts a run has, by the names that the API gives them."""

from __future__ import annotations

from urllib.parse import quote

from pydantic import BaseModel, Field

from flywheel.report.files import CURVE_FILE, HTML_FILE
from flywheel.report.model import REPORT_FILE
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages.examined import PREDICTIONS
from flywheel.web import run_files

_FILES = {
    REPORT_FILE: ("application/json", "The report, for programs."),
    HTML_FILE: ("text/html; charset=utf-8", "The report, for people."),
    CURVE_FILE: ("image/png", "The learning curve."),
    "label.quarantine.jsonl": ("application/x-ndjson", "Headlines that were set aside, with the reasons."),
    "ingest.quarantine.jsonl": ("application/x-ndjson", "Records that were set aside, with the reasons."),
}
NDJSON, TAR, JSON = "application/x-ndjson", "application/x-tar", "application/json"


class Artifact(BaseModel):
    """Something that a run has made.

    Attributes:
        key: of the artifact in the artifact root; None: a file of the run's folder.
    """

    name: str
    kind: str = Field(description="file, predictions, losses or adapter.")
    media_type: str
    description: str
    url: str
    student: str | None = None
    size: int | None = Field(None, description="Training records of the candidate.")
    key: str | None = None


class Artifacts(BaseModel):
    """All that a run has made."""

    artifacts: list[Artifact]


def artifacts_of(run: Run, plan: Plan) -> list[Artifact]:
    """Return the artifacts of a run that are there."""
    there = set(run.root.list(run.path))
    found = [
        _artifact(run, name, "file", media_type, description)
        for name, (media_type, description) in _FILES.items()
        if name in there
    ]
    pairs: list[tuple[str, int | None]] = [(student, None) for student in plan.students]
    pairs += sorted((candidate.student, candidate.size) for candidate in run.candidates)
    jobs = run_files.side_by_side(lambda pair: _results(run, *pair), pairs)
    for (student, size), (customized, evaluated) in zip(pairs, jobs, strict=True):
        name = student if size is None else f"{student}@{size}"
        if evaluated is not None:
            found.append(
                _artifact(
                    run,
                    f"predictions/{name}.jsonl",
                    "predictions",
                    NDJSON,
                    "Its answer to each headline of the eval set, beside the teacher's label.",
                    key=evaluated,
                    student=student,
                    size=size,
                )
            )
        if customized is not None:
            found.append(
                _artifact(
                    run,
                    f"losses/{name}.json",
                    "losses",
                    JSON,
                    "The loss curve of its training.",
                    student=student,
                    size=size,
                )
            )
            found.append(
                _artifact(
                    run,
                    f"adapters/{name}.tar",
                    "adapter",
                    TAR,
                    "The LoRA adapter: a PEFT folder, as an archive.",
                    key=customized,
                    student=student,
                    size=size,
                )
            )
    return found


def predictions_path(key: str) -> str:
    """Return the path of an evaluation's predictions, relative to the artifact root."""
    return f"evaluations/{key}/{PREDICTIONS}"


def _results(run: Run, student: str, size: int | None) -> tuple[str | None, str | None]:
    """Return the keys of the adapter and the evaluation."""
    if size is None:
        found = run_files.read_json(run, f"jobs/{student}/base_eval.json")
        return None, found["result"]["key"] if found else None
    made = run_files.read_json(run, f"jobs/{student}@{size}/customize.json")
    found = run_files.read_json(run, f"jobs/{student}@{size}/evaluate.json")
    return made["result"]["adapter"] if made else None, found["result"]["key"] if found else None


def _artifact(
    run: Run,
    name: str,
    kind: str,
    media_type: str,
    description: str,
    *,
    key: str | None = None,
    student: str | None = None,
    size: int | None = None,
) -> Artifact:
    return Artifact(
        name=name,
        kind=kind,
        media_type=media_type,
        description=description,
        url=f"/flywheel/api/runs/{quote(run.run_id, safe='')}/artifacts/{quote(name, safe='/@')}",
        student=student,
        size=size,
        key=key,
    )
