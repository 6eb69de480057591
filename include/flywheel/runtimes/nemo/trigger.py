"""NemoTrigger: accompanies a job on NeMo in Airflow's triggerer, where a thousand of them share one process.

Started again by another triggerer it finds its job by its name and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from flywheel.errors import FlywheelError, JobError
from flywheel.runtimes.base import RefusedJobError, log_job_line
from flywheel.runtimes.nemo.job import NemoJob
from flywheel.runtimes.nemo.runtime import accompany, end

log = logging.getLogger(__name__)


class NemoTrigger(BaseTrigger):
    """Accompanies a job on NeMo.

    Args:
        job: a `NemoJob`, as JSON.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job = job
        self._ended = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"job": self.job}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Accompany the job; the one event says how it ended: {"job", "good", "refused", "sentence"}."""
        job = NemoJob.model_validate(self.job)
        event: dict[str, Any] = {"job": self.job, "good": False, "refused": False, "sentence": ""}
        try:
            await accompany(job, lambda line: log_job_line(log, line))
            event["good"] = True
        except FlywheelError as error:
            event.update(refused=isinstance(error, RefusedJobError), sentence=f"{job.name}: {error}")
        except Exception as error:
            log.exception("%s: not accompanied any further", job.name)
            event["sentence"] = f"{job.name}: {type(error).__name__}: {error}"
        self._ended = True
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """End the job on NeMo: its task was marked, cleared or cancelled by a person."""
        if self._ended:
            return
        log.info("the task was ended by a person: ending its job on NeMo")
        await end(NemoJob.model_validate(self.job), lambda line: log_job_line(log, line))


def check(event: dict[str, Any]) -> None:
    """Raise where a job did not end well.

    Raises:
        RefusedJobError: what it was given is wrong.
        JobError: it failed.
    """
    if event["refused"]:
        raise RefusedJobError(event["sentence"])
    if not event["good"]:
        raise JobError(event["sentence"])
