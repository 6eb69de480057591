"""Why a run failed: a small file for each task that did, in the run's folder.

    runs/<run>/failures/<task>.<map index>.json     gone again when a later try has ended well
    runs/<run>/told/<what>.json                     somebody was told; nobody is told it again

A task whose process was killed with all that it had to say leaves none: that a stage has no result says it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from flywheel.artifacts.create_once import create_once
from flywheel.common.errors import ArtifactError
from flywheel.runs.run import Run

_FOLDER = "failures"
# The stages before the jobs, in order; each leaves stages/NAME.json.
_BEFORE_JOBS = ("label", "ingest", "curate")
_OF_CANDIDATES = ("customize", "evaluate")
SILENT = (
    "its process ended without a word: it was killed, as where memory runs out, its machine went away, the "
    "disk of the artifact root is full, or a person marked it as failed"
)
SILENT_MEND = "See its log and its machine's, then clear the task: what is done is found again."


class RunFailure(BaseModel):
    """What failed in a run, or is stuck, why, and what to do."""

    stage: str = Field(description="The stage, such as `label` or `customize`.")
    job: str = Field("", description="Which of the stage's jobs, such as `customize 1b @ 5000`; empty: none.")
    sentence: str = Field(description="What was wrong.")
    mend: str = Field(description="What to do.")
    is_stuck: bool = Field(False, description="It has not failed: nothing of the run goes on, since `at`.")
    tries_again: bool = Field(False, description="Airflow tries it again by itself.")
    try_number: int = Field(1, ge=1)
    at: str = Field("", description="When, ISO 8601; empty: not known.")
    task_id: str = Field(description="The task in Airflow, with its group.")
    map_index: int = -1
    link: str = Field("", description="Where Airflow shows the task's log; empty: not known.")

    @property
    def facts(self) -> dict[str, Any]:
        """What notifiers are given of it, beside the line."""
        return self.model_dump(exclude={"is_stuck", "tries_again", "map_index"})

    @property
    def told(self) -> str:
        """All of it as a line for people."""
        happened = "is stuck" if self.is_stuck else "failed"
        return f"{self.job or self.stage} {happened}: {self.sentence.rstrip('.')}. {self.mend}"


def keep(run: Run, failure: RunFailure) -> None:
    """Write down that a task has failed; its failure of an earlier try is replaced.

    What a try has said of itself stays, where Airflow tells of the same try afterwards and knows no reason.
    """
    path = _path(run, failure.task_id, failure.map_index)
    if failure.sentence == SILENT and any(
        (one.task_id, one.map_index, one.try_number)
        == (failure.task_id, failure.map_index, failure.try_number)
        for one in failures_of(run)
    ):
        return
    run.root.write_json(path, failure.model_dump(mode="json"))


def forget(run: Run, task_id: str, map_index: int) -> None:
    """Remove what is kept of a task's earlier tries: it has ended well."""
    run.root.discard(_path(run, task_id, map_index))


def failures_of(run: Run) -> list[RunFailure]:
    """Return what has failed in a run, the first first; a file that is damaged counts for nothing."""
    found = []
    for name in run.root.list(f"{run.path}/{_FOLDER}"):
        try:
            found.append(RunFailure.model_validate(run.root.read_json(f"{run.path}/{_FOLDER}/{name}")))
        except (ValidationError, ValueError, FileNotFoundError):
            continue
    return sorted(found, key=lambda failure: failure.at)


def cause_of(run: Run) -> RunFailure | None:
    """Return why a run that has failed did: of all that failed, what the rest follows from.

    A stage's own failure goes before those of jobs, for a candidate that fails is only a line of the table;
    where `score` failed since none could be scored, the first job of a candidate that failed is the cause.
    """
    found = failures_of(run)
    jobs = sorted(
        (failure for failure in found if failure.job), key=lambda job: job.stage not in _OF_CANDIDATES
    )
    stages = [failure for failure in found if not failure.job]
    own = [failure for failure in stages if failure.stage != "score"]
    silent = None if own or not run.is_planned else _silent_stage(run)
    return next(iter([*own, *([silent] if silent else []), *jobs, *stages]), None)


def foremost(found: Iterable[RunFailure]) -> RunFailure | None:
    """Return which failure of a run that goes on says most: a stage's, a candidate's, one for good."""
    return min(
        found,
        key=lambda one: (bool(one.job), one.stage not in _OF_CANDIDATES, one.tries_again, one.at),
        default=None,
    )


def is_lost(run: Run) -> bool:
    """Return whether a run can end in no other way than badly, though parts of it may still go on.

    That is so where a stage has failed for good, or each candidate has, or was left out for want of records.
    """
    final = [failure for failure in failures_of(run) if not failure.tries_again]
    if any(not failure.job for failure in final):
        return True
    failed = {failure.map_index for failure in final if failure.stage in _OF_CANDIDATES}
    return bool(failed) and all(
        index in failed or _is_left_out(run, candidate.folder)
        for index, candidate in enumerate(run.candidates)
    )


def first_to_tell(run: Run, what: str) -> bool:
    """Return whether nobody has told a thing of a run yet; from now on somebody has.

    A store that cannot write a file on the condition that there is none gives no such word: there it may be
    told twice, which is better than not at all.
    """
    try:
        return create_once(run.root, f"{run.path}/told/{what}.json", b"{}")
    except ArtifactError:
        return True


def _is_left_out(run: Run, folder: str) -> bool:
    path = f"{run.path}/jobs/{folder}/failure.json"
    return run.root.exists(path) and run.root.read_json(path).get("stage") == "curate"


def _silent_stage(run: Run) -> RunFailure | None:
    for stage in _BEFORE_JOBS:
        if not run.root.exists(f"{run.path}/stages/{stage}.json"):
            return RunFailure(stage=stage, task_id=stage, sentence=SILENT, mend=SILENT_MEND)
    return None


def _path(run: Run, task_id: str, map_index: int) -> str:
    return f"{run.path}/{_FOLDER}/{task_id}.{map_index}.json"
