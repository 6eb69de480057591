"""The operator of the customization and evaluation jobs: one job of one student, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from flywheel.common.errors import JobError
from flywheel.config import Config, Student
from flywheel.jobs.spec import CustomizeResult, EvaluateResult
from flywheel.jobs.weights import local_folder
from flywheel.runs.plan import Candidate
from flywheel.runs.run import Run
from flywheel.runtimes import Job, RefusedJobError, open_runtime
from flywheel.runtimes.base import JobKind, log_job_line
from flywheel.runtimes.context import facts, run_of
from flywheel.runtimes.job_command import SPEC_SUFFIX, is_done, run_job
from flywheel.stages import pipeline as wheel

Stage = Literal["base_eval", "icl_eval", "champion_eval", "customize", "evaluate"]

# A network file system may keep what is in a folder for so long before it looks again.
NFS_SECONDS = 60.0


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
}


class JobOperator(BaseOperator):
    """Runs a job of a student, or of a candidate, in the runtime of the run's plan.

    What was done before is found and no job is started. A failure is written down for the table beside the
    job's spec, as failure.json {"stage", "reason"}; a candidate's failure is its own, the run goes on.

    Args:
        stage: which job.
        student: short name; CHAMPION for champion_eval.
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
        """Find or do the job, or defer to its pod; return the small facts of its result."""
        run = run_of(context)
        self._clear_failure(run)
        with self._failures_written(run):
            self._check_available(run)
            spec = wheel.write_spec(run, self.stage, self.student, self.size)
            config = run.plan.config
            if config.runtime.type == "nemo":
                return self._run_on_nemo(run, config, spec)
            if is_done(self._kind, spec):
                self.log.info("%s: found, nothing to do", self.name)
                run_job(self._kind, spec)
                return self._result(run)
            student = self._student(run)
            if config.runtime.type == "kubernetes":
                self._defer_to_pod(context, run, config, student, spec)
            self._runtime = open_runtime(config)
            from_hub = bool(student.weights) and local_folder(student.weights) is None
            job = Job(self._kind, spec, self.name, student.gpus, from_hub)
            self._runtime.run(job, partial(log_job_line, self.log))
            return self._result(run)

    def resume(self, context: Any, event: dict[str, Any] | str) -> dict[str, Any]:
        """Take what the job's pod made, where the trigger has not ended the task itself.

        What is in the artifact root counts, whatever became of the pod.

        Args:
            event: how the pod ended; "success" where `airflow dags test` goes on with an ended task.
        """
        from flywheel.runtimes.kubernetes.job import check

        told = {"good": True, "refused": False} if isinstance(event, str) else event
        run = run_of(context)
        with self._failures_written(run):
            if not self._await_result(run, seconds=NFS_SECONDS if told["good"] else 0):
                check(told)
                raise JobError(
                    f"{self.name}: its pod ended well, but its result is not in {run.root.url}; see that "
                    "pods and Airflow have the same artifact root: one volume at the same place, or one URL"
                )
            return self._result(run)

    def take_from_nemo(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Take what the job's services gave, and score it here."""
        from flywheel.runtimes.nemo.job import NemoJob
        from flywheel.runtimes.nemo.results import keep
        from flywheel.runtimes.nemo.trigger import check

        run = run_of(context)
        with self._failures_written(run):
            check(event)
            keep(NemoJob.model_validate(event["job"]))
            return self._result(run)

    def on_kill(self) -> None:
        """End the job: its task was marked or cleared, ran out of time, or its worker is going down."""
        if self._runtime is not None:
            self._runtime.kill()

    def _defer_to_pod(self, context: Any, run: Run, config: Config, student: Student, spec: str) -> NoReturn:
        """Hand the job to a pod; this task holds no slot until it has ended, and mostly none then either."""
        from flywheel.runtimes.kubernetes.job import PodJob
        from flywheel.runtimes.kubernetes.job_trigger import JobTrigger

        job = PodJob(self._kind, self.stage, student, self.size, run.run_id, run.path, spec, run.root.url)
        run.root.discard(self._result_path(run))  # an earlier try's, of which nothing else is left
        trigger = JobTrigger.of(context, job, config, self.execution_timeout)
        self.defer(trigger=trigger, method_name="resume")
        raise AssertionError("defer does not return")

    def _run_on_nemo(self, run: Run, config: Config, spec: str) -> dict[str, Any]:
        """Find what the job makes, or hand it to NeMo; this task holds no slot until it has ended there."""
        from flywheel.runtimes.nemo.results import keep
        from flywheel.runtimes.nemo.runtime import describe, prepare
        from flywheel.runtimes.nemo.trigger import NemoTrigger

        job = describe(self.name, spec, config, run.run_id)
        prepared = prepare(job, partial(log_job_line, self.log))
        if prepared is None:
            keep(job)
            return self._result(run)
        # No kwargs: the event says which job it was. `airflow dags test` hands on nothing else.
        self.defer(trigger=NemoTrigger(prepared.model_dump(mode="json")), method_name="take_from_nemo")
        raise AssertionError("defer does not return")

    def _await_result(self, run: Run, seconds: float) -> bool:
        """Return whether the job's result is there; a network file system may show it somewhat later."""
        spec = f"{run.root.url}/{run.path}/jobs/{self._folder}/{self.stage}{SPEC_SUFFIX}"
        deadline = time.monotonic() + seconds
        while not run.root.exists(self._result_path(run)):
            if is_done(self._kind, spec):
                run_job(self._kind, spec)
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(0.5)
        return True

    def _result(self, run: Run) -> dict[str, Any]:
        kind = CustomizeResult if self._kind == "customize" else EvaluateResult
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
            if isinstance(error, RefusedJobError):  # it would be refused again: no retry
                raise AirflowFailException(str(error)) from None
            raise

    def _student(self, run: Run) -> Student:
        """Return the student that the job's spec names: of the config, or as it was when it won."""
        written = run.root.read_json(f"{run.path}/jobs/{self._folder}/{self.stage}.spec.json")
        return Student.model_validate(written["student"])

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

    @property
    def _kind(self) -> JobKind:
        return "customize" if self.stage == "customize" else "evaluate"

    def _result_path(self, run: Run) -> str:
        return f"{run.path}/jobs/{self._folder}/{self.stage}.json"

    def _failure_path(self, run: Run) -> str:
        name = "icl_failure" if self.stage == "icl_eval" else "failure"
        return f"{run.path}/jobs/{self._folder}/{name}.json"

    def _record_failure(self, run: Run, stage: str, reason: str) -> None:
        run.root.write_json(self._failure_path(run), {"stage": stage, "reason": reason})

    def _clear_failure(self, run: Run) -> None:
        """Forget the failure of an earlier try."""
        run.root.discard(self._failure_path(run))
