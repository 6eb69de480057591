"""The task of a shard of a labelled history: one job, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from flywheel.annotation.work import Work, is_finished, read_work, result_of
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import JobError
from flywheel.common.redaction import install
from flywheel.runtimes import Job, RefusedJobError, Runtime, open_runtime
from flywheel.runtimes.base import await_result, log_job_line
from flywheel.runtimes.context import facts
from flywheel.runtimes.job_command import SPEC_SUFFIX

# Arguments of the tasks, which are expanded over specs.
SHARDS = {
    "task_id": "annotate",
    "map_index_template": "{{ task.shard }}",
    "doc_md": "Label the texts of a shard of time.",
}


class ShardOperator(BaseOperator):
    """Labels a shard by `Runtime.run` of the planned runtime, in the task's process.

    An operator of a runtime's own has another `begin`. A shard that is finished is found.

    Args:
        spec: path or URL of the shard's spec.
        given: names of the arguments that the DAG file itself gives: they go before what the config says.
    """

    template_fields: Sequence[str] = ("spec",)
    ui_color = "#e8f0e4"

    def __init__(self, *, spec: str, given: Sequence[str] = (), **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spec = spec
        self.given = tuple(given)
        self._running: Runtime | None = None

    @property
    def shard(self) -> str:
        """The shard's first day."""
        return self.spec.rpartition("/")[2].removesuffix(SPEC_SUFFIX)

    @property
    def job(self) -> Job:
        """The job of the shard."""
        return Job("annotate-shard", self.spec, f"annotate {self.shard}")

    def execute(self, context: Any) -> dict[str, Any]:
        """Find or do the job, or hand it to the triggerer; return the small facts of its result."""
        install()
        work = self.work()
        root = ArtifactRoot(work.config.artifacts.root)
        if is_finished(root, work.read_spec(root, self.shard), work.result_path(self.shard)):
            self.log.info("%s: found, nothing to do", self.job.name)
        else:
            self._or_refused(partial(self.begin, context, work))
        return self._result(work)

    def resume(self, context: Any, event: dict[str, Any] | str) -> dict[str, Any]:
        """Take what a job gave that was waited for in the triggerer: its result counts, if it is there.

        Args:
            event: how it ended: {"good", "sentence", "refused"}; or "success", from `airflow dags test`.
        """
        work = self.work()
        ended = {"good": True, "refused": False} if isinstance(event, str) else event
        self._or_refused(partial(self._collect, work, ended))
        return self._result(work)

    def begin(self, context: Any, work: Work) -> None:
        """Do the job to its end; its result is then beside its spec. Or defer to `resume`."""
        self._running = open_runtime(work.config)
        self._running.run(self.job, partial(log_job_line, self.log))

    def on_kill(self) -> None:
        """End the job: its task was marked or cleared, ran out of time, or its worker is going down."""
        if self._running is not None:
            self._running.kill()

    def work(self) -> Work:
        """Return what was planned, of which this is a shard."""
        return read_work(ArtifactRoot(self.spec.rpartition("/")[0]), "")

    def _collect(self, work: Work, event: dict[str, Any]) -> None:
        root, path = ArtifactRoot(work.config.artifacts.root), work.result_path(self.shard)
        await_result(lambda: root.exists(path), event, self.job.name, root.url)

    def _result(self, work: Work) -> dict[str, Any]:
        root, path = ArtifactRoot(work.config.artifacts.root), work.result_path(self.shard)
        result = result_of(root, path)
        if result is None:
            raise JobError(f"{root.url}/{path}: no result of a shard; clear the task {self.job.name}")
        return facts(result)

    def _or_refused(self, do: Any) -> None:
        """Do something; say where a retry is of no use."""
        try:
            do()
        except RefusedJobError as error:  # it would be refused again: no retry
            raise AirflowFailException(str(error)) from None
