"""KubernetesRuntime: jobs are pods of a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flywheel.common.errors import FlywheelError, JobError
from flywheel.runtimes.base import Job, Runtime, check_ending
from flywheel.runtimes.checks import Finding

if TYPE_CHECKING:
    from flywheel.runtimes.kubernetes.job import PodJob
    from flywheel.runtimes.kubernetes.operator import PodOperator
    from flywheel.runtimes.kubernetes.sweep import SweepOperator
    from flywheel.runtimes.kubernetes.trigger import PodTrigger

# Whose lines are about a job's pod.
_PACKAGE = "flywheel.runtimes.kubernetes"


class KubernetesRuntime(Runtime):
    """Runs each job in a pod."""

    defers = True
    _task: asyncio.Task[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _killed = False

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Make a job's pod and accompany it from this process."""
        from flywheel.runtimes.kubernetes.job import PodJob
        from flywheel.runtimes.kubernetes.trigger import Limits, PodTrigger

        pods = self.config.runtime.kubernetes
        manifest = self._described(PodJob.of(job))
        trigger = PodTrigger(pods.connection, manifest, Limits.of(pods).__dict__, pods.keep_failed_pods)
        with _lines_to(log):
            asyncio.run(self._accompany(trigger, job.name))

    def kill(self) -> None:
        """Delete the pod that `run` accompanies."""
        self._killed = True
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _accompany(self, trigger: PodTrigger, name: str) -> None:
        async def follow() -> None:
            async for event in trigger.run():
                check_ending(event.payload)

        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(follow())
        if self._killed:
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            await trigger.on_kill()
            raise JobError(f"{name}: ended with its task") from None
        finally:
            self._task = None

    # -- tasks of the DAG ----------------------------------------------------------------------------

    @property
    def operator(self) -> type[PodOperator]:
        """The class of a job's task, a KubernetesPodOperator."""
        from flywheel.runtimes.kubernetes.operator import PodOperator

        return PodOperator

    def arguments(self) -> dict[str, Any]:
        """Return what the pods of all jobs have in common."""
        from flywheel.runtimes.kubernetes.pods import common_arguments

        return {**common_arguments(self.config), "deferrable": True}

    def shards(self) -> Any:
        """Return the tasks of a labelled history's shards, KubernetesPodOperators."""
        from flywheel.runtimes.kubernetes.shard_operator import PodShardOperator
        from flywheel.runtimes.shard_operator import SHARDS

        return PodShardOperator.partial(**SHARDS, **self.arguments())

    def sweep(self) -> SweepOperator:
        """Return the task that deletes pods which a run has left."""
        from flywheel.runtimes.kubernetes.sweep import SweepOperator

        operator = SweepOperator(task_id="sweep", execution_timeout=timedelta(minutes=10))
        operator.as_teardown()
        return operator

    # -- for people ----------------------------------------------------------------------------------

    def check(self) -> Iterator[Finding]:
        """See that the pods can be described, and look for the students' weights."""
        from flywheel.runtimes.kubernetes.job import PodJob

        yield from super().check()
        pods, root = self.config.runtime.kubernetes, self.config.artifacts.root.rstrip("/")
        for student in self.config.students:
            spec = f"{root}/runs/none/jobs/{student.name}/base_eval.spec.json"
            job = PodJob("evaluate", "base_eval", student, None, "none", "runs/none", spec, root)
            try:
                self._described(job)
            except FlywheelError as error:
                yield Finding(f"pods of {student.name}", "error", str(error), "mend runtime.kubernetes")
                return
        yield Finding("pods", "ok", f"namespace {pods.namespace}, image {pods.image}")

    def _described(self, job: PodJob) -> dict[str, Any]:
        """Return a job's pod."""
        operator = self.task(job.stage, student=job.student.name, size=job.size)
        return self.operator.describe(operator, job, self.config)  # type: ignore[arg-type]  # it is one


@contextmanager
def _lines_to(log: Callable[[str], None]) -> Iterator[None]:
    """Hand on what is logged about a pod, with what its job prints."""
    handler = logging.Handler()
    handler.emit = lambda record: log(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
    logger = logging.getLogger(_PACKAGE)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
