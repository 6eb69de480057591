"""The task of a customization or evaluation job: one job of one student, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from flywheel.common.errors import StudentError
from flywheel.config import Student
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.runs.plan import Candidate
from flywheel.runs.run import Run
from flywheel.runtimes import Job, RefusedJobError, Runtime, open_runtime
from flywheel.runtimes.base import JobKind, Stage, await_result, log_job_line
from flywheel.runtimes.context import facts, run_of
from flywheel.runtimes.job_command import SPEC_SUFFIX, is_done, run_job
from flywheel.stages import pipeline as wheel


def _described(stage: Stage, text: str, map_index: str | None) -> dict[str, Any]:
    return {"task_id": stage, "doc_md": text, "map_index_template": map_index}


_CANDIDATE = "{{ task.student }} @ {{ task.size }}"
_DESCRIBED = {
    "base_eval": _described(
        "base_eval", "Measure each student as it is, without training.", "{{ task.student }}"
    ),
    "icl_eval": _described(
        "icl_eval",
        "Measure each student as it is, with examples in its prompts.",
        "{{ task.student }}",
    ),
    "champion_eval": _described(
        "champion_eval", "Measure the champion in force on this run's eval set.", None
    ),
    "customize": _described(
        "customize", "Fine-tune a student with LoRA on the first `size` records.", _CANDIDATE
    ),
    "evaluate": _described("evaluate", "Measure the fine-tuned student against the teacher.", _CANDIDATE),
    "annotate": _described("annotate", "Label the texts of a shard of time.", None),
}


def described(stage: Stage) -> dict[str, Any]:
    """Return the arguments of a task that say which job it is, to Airflow and to people."""
    return {"stage": stage, **_DESCRIBED[stage]}


class JobOperator(BaseOperator):
    """Runs a job of a student, or of a candidate, by `Runtime.run` of its runtime, in the task's process.

    An operator of a runtime's own has other `begin` and, where that defers, `collect`.

    What was done before is found and no job is started. A failure is written down for the table beside the
    job's spec, as failure.json {"stage", "reason"}; a candidate's failure is its own, the run goes on.

    Args:
        stage: which job.
        student: short name; CHAMPION for champion_eval.
        size: training records of the candidate; None for the student itself.
        runtime: `runtime.type` as the DAG file was read with it; a run planned for another one fails.
        given: names of the arguments that the DAG file itself gives: they go before what the config says.
    """

    template_fields: Sequence[str] = ("student", "size")
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        stage: Stage,
        student: Any,
        size: Any = None,
        runtime: str = "local",
        given: Sequence[str] = (),
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.stage = stage
        self.student = student
        self.size = size
        self.runtime = runtime
        self.given = tuple(given)
        self._running: Runtime | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Find or do the job, or hand it to the triggerer; return the small facts of its result."""
        run = run_of(context)
        self._clear_failure(run)
        with self._failures_written(run):
            self._check_runtime(run)
            self._check_available(run)
            spec = wheel.write_spec(run, self.stage, self.student, self.size)
            if not self.find(run, spec):
                self.begin(context, run, spec)
            return self._result(run)

    def resume(self, context: Any, event: dict[str, Any] | str) -> dict[str, Any]:
        """Take what a job gave that was waited for in the triggerer.

        Args:
            event: of the trigger; "success" where `airflow dags test` goes on with a task that has ended.
        """
        run = run_of(context)
        with self._failures_written(run):
            self.collect(run, {"good": True, "refused": False} if isinstance(event, str) else event)
            return self._result(run)

    def find(self, run: Run, spec: str) -> bool:
        """Return whether what the job makes is there already; then its result is written anew."""
        if not is_done(self.kind, spec):
            return False
        self.log.info("%s: found, nothing to do", self.job_name)
        run_job(self.kind, spec)
        return True

    def begin(self, context: Any, run: Run, spec: str) -> None:
        """Do the job to its end; its result is then beside its spec. Or defer to `resume`."""
        self._running = open_runtime(run.plan.config)
        job = Job.of(self.kind, spec, self.job_name, self.student_of(run))
        self._running.run(job, partial(log_job_line, self.log))

    def collect(self, run: Run, event: dict[str, Any]) -> None:
        """See that the result of a job that has ended is there: it counts, whatever else has become of it.

        Args:
            event: how it ended: {"good", "sentence", "refused"}.
        """
        await_result(lambda: self._has_result(run), event, self.job_name, run.root.url)

    def on_kill(self) -> None:
        """End the job: its task was marked or cleared, ran out of time, or its worker is going down."""
        if self._running is not None:
            self._running.kill()

    def _has_result(self, run: Run) -> bool:
        """Return whether the job's result is there; where all that it is of is, it is written."""
        path, spec = self.result_path(run), self.spec_url(run)
        if not run.root.exists(path) and is_done(self.kind, spec):
            run_job(self.kind, spec)
        return run.root.exists(path)

    def _result(self, run: Run) -> dict[str, Any]:
        kind = CustomizeResult if self.kind == "customize" else EvaluateResult
        return facts(run.load(f"jobs/{self._folder}/{self.stage}", kind))

    @contextmanager
    def _failures_written(self, run: Run) -> Iterator[None]:
        """Write a failure down for the table, and say where a retry is of no use."""
        try:
            yield
        except AirflowSkipException as skip:
            self._record_failure(run, "curate", str(skip))
            raise
        except Exception as error:
            self._record_failure(run, self.stage, str(error) or type(error).__name__)
            if isinstance(error, RefusedJobError | StudentError):  # it would be refused again: no retry
                raise AirflowFailException(str(error)) from None
            raise

    def _check_runtime(self, run: Run) -> None:
        planned = run.plan.config.runtime.type
        if planned != self.runtime:
            raise AirflowFailException(
                f"{self.job_name}: its run is planned for runtime {planned!r}, the DAG file was read with "
                f"{self.runtime!r}: set runtime.type back and clear the failed tasks, or start a new run"
            )

    def _check_available(self, run: Run) -> None:
        """Skip a candidate whose size the data does not reach; the reason goes into the table."""
        if self.stage == "champion_eval":
            from flywheel.promotion.timeline import compared_champion

            plan = run.plan
            if compared_champion(run.root, plan) is None:
                raise AirflowSkipException("no champion yet: nothing to measure anew")
        if self.stage == "icl_eval" and run.plan.config.icl_config is None:
            raise AirflowSkipException("this run has no icl_config: no examples in prompts")
        if self.size is None:
            return
        from flywheel.curation.result import CurateResult

        size = run.load("stages/curate", CurateResult).sizes[self.size]
        if not size.available:
            raise AirflowSkipException(size.reason)

    def student_of(self, run: Run) -> Student:
        """Return the student of the job: of the run's config, or the champion's, as it was when it won."""
        if self.stage == "champion_eval":
            return wheel.champion_spec(run).student
        return run.plan.config.student(self.student)

    def spec_url(self, run: Run) -> str:
        """Return the path or URL of the job's spec."""
        return f"{run.root.url}/{run.path}/jobs/{self._folder}/{self.stage}{SPEC_SUFFIX}"

    def result_path(self, run: Run) -> str:
        """Return the path of the job's result in the artifact root."""
        return f"{run.path}/jobs/{self._folder}/{self.stage}.json"

    @property
    def job_name(self) -> str:
        """The job's name for people: `customize 1b @ 5000`."""
        return f"{self.stage} {self._candidate.name if self._candidate else self.student}"

    @property
    def kind(self) -> JobKind:
        """The command that does the job."""
        return "customize" if self.stage == "customize" else "evaluate"

    @property
    def _candidate(self) -> Candidate | None:
        return None if self.size is None else Candidate(student=self.student, size=self.size)

    @property
    def _folder(self) -> str:
        return self._candidate.folder if self._candidate else str(self.student)

    def _failure_path(self, run: Run) -> str:
        name = "icl_failure" if self.stage == "icl_eval" else "failure"
        return f"{run.path}/jobs/{self._folder}/{name}.json"

    def _record_failure(self, run: Run, stage: str, reason: str) -> None:
        run.root.write_json(self._failure_path(run), {"stage": stage, "reason": reason})

    def _clear_failure(self, run: Run) -> None:
        """Forget the failure of an earlier try."""
        run.root.discard(self._failure_path(run))
