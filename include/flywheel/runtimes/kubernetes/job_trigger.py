"""JobTrigger: has a job done in a pod and, where that went well, ends its task: no worker starts for that.

A worker only says which job it is. What describes and makes pods is imported by the triggerer, once, and not
by each task's worker, which it would cost more than a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import FlywheelError
from flywheel.common.redaction import install
from flywheel.config import Config
from flywheel.runtimes.kubernetes.job import PodJob

if TYPE_CHECKING:
    from flywheel.runtimes.kubernetes.trigger import PodTrigger

log = logging.getLogger(__name__)

# So long is a result waited for here, once its pod has ended well; a worker looks longer.
RESULT_SECONDS = 3.0


class JobTrigger(BaseTrigger):
    """Accompanies the pod of a job, and ends the task with the small facts of the job's result.

    Args:
        job: a `PodJob`, as JSON.
        config: of the run, as JSON.
        task: which task instance it is: {"dag_id", "task_id", "run_id", "map_index", "try_number"}.
        deadline: unix time of the task's execution_timeout; None: no such.
    """

    def __init__(
        self, job: dict[str, Any], config: dict[str, Any], task: dict[str, Any], deadline: float | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job = job
        self.config = config
        self.task_of = task
        self.deadline = deadline
        self._pod: PodTrigger | None = None

    @classmethod
    def of(cls, context: Any, job: PodJob, config: Config, timeout: timedelta | None) -> JobTrigger:
        """Return the trigger of a task's try, which has so long from its start."""
        ti = context["ti"]
        names = ("dag_id", "task_id", "run_id", "map_index", "try_number")
        deadline = ti.start_date.timestamp() + timeout.total_seconds() if timeout is not None else None
        task = {name: getattr(ti, name) for name in names}
        return cls(job.dump(), config.model_dump(mode="json"), task, deadline)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        arguments = {
            "job": self.job,
            "config": self.config,
            "task": self.task_of,
            "deadline": self.deadline,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Accompany the pod, then end the task; where the result is not to be had, a worker goes on with it.

        The event of a task that goes on says how the pod ended: {"good", "sentence", "refused"}.
        """
        install()
        try:
            pod = self._pod = await asyncio.to_thread(self._describe)
        except Exception as error:
            log.exception("the pod cannot be described")
            sentence = str(error) if isinstance(error, FlywheelError) else f"{type(error).__name__}: {error}"
            yield TriggerEvent({"good": False, "sentence": sentence, "refused": False})  # type: ignore[no-untyped-call]
            return
        # The task takes an earlier try's result away before it defers: one that is there is this try's, whose
        # triggerer went down when it had taken the pod away.
        facts = await self._facts()
        if facts is not None and not await pod.is_there():
            log.info("its pod was here and is gone, its result is there")
            yield TaskSuccessEvent(xcoms={"return_value": facts})
            return
        async for event in pod.run():
            facts = await self._facts(RESULT_SECONDS) if event.payload["good"] else None
            yield event if facts is None else TaskSuccessEvent(xcoms={"return_value": facts})

    async def on_kill(self) -> None:
        """Delete the pod: its task was marked, cleared or cancelled by a person."""
        if self._pod is None:
            self._pod = await asyncio.to_thread(self._describe)
        await self._pod.on_kill()

    def _describe(self) -> PodTrigger:
        """Return the trigger of the job's pod."""
        from flywheel.runtimes.kubernetes.operator import PodOperator

        job, config = PodJob.load(self.job), Config.model_validate(self.config)
        operator = PodOperator(job=job, config=config, task_id=job.stage)
        ti = SimpleNamespace(**self.task_of)
        return operator.trigger({"ti": ti, "run_id": ti.run_id, "dag": None}, self.deadline)

    async def _facts(self, seconds: float = 0.0) -> dict[str, Any] | None:
        """Return the small facts of the job's result; None where it is not to be seen from here so soon."""
        deadline = time.monotonic() + seconds
        while (found := await asyncio.to_thread(self._read)) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return found

    def _read(self) -> dict[str, Any] | None:
        from flywheel.runtimes.context import facts

        job = PodJob.load(self.job)
        try:
            root = ArtifactRoot(job.root)
            return facts(root.read_json(job.result)["result"]) if root.exists(job.result) else None
        except Exception as error:  # this process may have no access to the artifact root
            log.info("%s/%s cannot be read here: %s", job.root, job.result, error)
            return None
