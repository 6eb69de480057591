"""The operator of the customization and evaluation jobs: one job of one student, wherever it runs."""

from __future__ import annotations

import logging
from typing import Any, Literal

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from flywheel import wheel
from flywheel.champion import read_champion
from flywheel.config import Student
from flywheel.job_command import is_done, run_job
from flywheel.jobs import CustomizeResult, EvaluateResult
from flywheel.orchestration.context import facts, run_of
from flywheel.plan import Candidate
from flywheel.runs import Run
from flywheel.runtimes import Job, RefusedJobError, open_runtime
from flywheel.runtimes.base import JobKind

Stage = Literal["base_eval", "champion_eval", "customize", "evaluate"]

# How a line of a job begins (see flywheel.job_command), and the level it has in the task's log.
_LEVELS = {
    "INFO ": logging.INFO,
    "DEBUG ": logging.DEBUG,
    "WARNING ": logging.WARNING,
    "ERROR ": logging.ERROR,
    "error: ": logging.ERROR,
}


def _described(stage: Stage, text: str, map_index: str | None) -> dict[str, Any]:
    return {"task_id": stage, "doc_md": text, "map_index_template": map_index}


_CANDIDATE = "{{ task.student }} @ {{ task.size }}"
_DESCRIBED = {
    "base_eval": _described(
        "base_eval", "Measure each student as it is, without training.", "{{ task.student }}"
    ),
    "champion_eval": _described(
        "champion_eval", "Measure the champion in force on this run's eval set.", None
    ),
    "customize": _described(
        "customize", "Fine-tune a student with LoRA on the first `size` records.", _CANDIDATE
    ),
    "evaluate": _described("evaluate", "Measure the fine-tuned student against the teacher.", _CANDIDATE),
}


class JobOperator(BaseOperator):
    """Runs a job of a student, or of a candidate, in the runtime of the run's plan.

    What was done before is found and no job is started. A failure is written down for the table beside the
    job's spec, as failure.json {"stage", "reason"}; a candidate's failure is its own, the run goes on.

    Args:
        stage: which job.
        student: short name; wheel.CHAMPION for champion_eval.
        size: training records of the candidate; None for the student itself.
    """

    template_fields = ("student", "size")
    ui_color = "#e8f0e4"

    def __init__(self, *, stage: Stage, student: Any, size: Any = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stage = stage
        self.student = student
        self.size = size
        self._runtime: Any = None

    @classmethod
    def of(cls, stage: Stage, **arguments: Any) -> JobOperator:
        """Return the task of a job, with the stage's name and description."""
        return cls(stage=stage, **_DESCRIBED[stage], **arguments)

    @classmethod
    def each(cls, stage: Stage) -> Any:
        """Return the task of a job to be expanded over students."""
        return cls.partial(stage=stage, **_DESCRIBED[stage])

    def execute(self, context: Any) -> dict[str, Any]:
        """Find or do the job; return the small facts of its result."""
        run = run_of(context)
        self._clear_failure(run)
        try:
            self._check_available(run)
            return self._perform(run)
        except AirflowSkipException as skip:
            self._record_failure(run, "curate", str(skip))
            raise
        except Exception as error:
            self._record_failure(run, self.stage, str(error) or type(error).__name__)
            if isinstance(error, RefusedJobError):  # it would be refused again: no retry
                raise AirflowFailException(str(error)) from None
            raise

    def on_kill(self) -> None:
        """End the job: its task was marked or cleared, ran out of time, or its worker is going down."""
        if self._runtime is not None:
            self._runtime.kill()

    def _perform(self, run: Run) -> dict[str, Any]:
        kind: JobKind = "customize" if self.stage == "customize" else "evaluate"
        spec = wheel.write_spec(run, self.stage, self.student, self.size)
        if is_done(kind, spec):
            self.log.info("%s: found, nothing to do", self.name)
            run_job(kind, spec)
        else:
            self._runtime = open_runtime(run.plan.config.runtime)
            written = run.root.read_json(f"{run.path}/jobs/{self._folder}/{self.stage}.spec.json")
            gpus = Student.model_validate(written["student"]).gpus
            self._runtime.run(Job(kind, spec, self.name, gpus), self._log_line)
        result = run.load(
            f"jobs/{self._folder}/{self.stage}", CustomizeResult if kind == "customize" else EvaluateResult
        )
        return facts(result)

    def _check_available(self, run: Run) -> None:
        """Skip a candidate whose size the data does not reach; the reason goes into the table."""
        if self.stage == "champion_eval":
            plan = run.plan
            if read_champion(run.root, plan.workload_id, plan.client_id) is None:
                raise AirflowSkipException("no champion yet: nothing to measure anew")
        if self.size is None:
            return
        from flywheel.stages.curate import CurateResult

        size = run.load("stages/curate", CurateResult).sizes[self.size]
        if not size.available:
            raise AirflowSkipException(size.reason)

    def _log_line(self, line: str) -> None:
        """Hand a line of the job to the task's log, at the level that it names."""
        for prefix, level in _LEVELS.items():
            if line.startswith(prefix):
                self.log.log(level, "%s", line.removeprefix(prefix))
                return
        self.log.info("%s", line)

    @property
    def name(self) -> str:
        """The job's name for people: `customize 1b @ 5000`."""
        return f"{self.stage} {self._candidate.name if self._candidate else self.student}"

    @property
    def _candidate(self) -> Candidate | None:
        return None if self.size is None else Candidate(student=self.student, size=self.size)

    @property
    def _folder(self) -> str:
        return self._candidate.folder if self._candidate else str(self.student)

    def _failure_path(self, run: Run) -> str:
        return f"{run.path}/jobs/{self._folder}/failure.json"

    def _record_failure(self, run: Run, stage: str, reason: str) -> None:
        run.root.write_json(self._failure_path(run), {"stage": stage, "reason": reason})

    def _clear_failure(self, run: Run) -> None:
        """Forget the failure of an earlier try."""
        if run.root.exists(self._failure_path(run)):
            run.root.fs.rm(f"{run.root.url}/{self._failure_path(run)}")
