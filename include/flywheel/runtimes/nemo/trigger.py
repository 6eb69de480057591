"""What waits for NeMo in Airflow's triggerer, where a thousand waits share one process.

Started again by another triggerer, each finds what it waits for by its name and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from flywheel.common.errors import FlywheelError
from flywheel.common.redaction import install
from flywheel.runtimes.base import RefusedJobError, log_job_line
from flywheel.runtimes.nemo.job import NemoJob
from flywheel.runtimes.nemo.runtime import accompany, end
from flywheel.runtimes.nemo.serving import ServingOrder, let_go, serve

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
        install()
        job = NemoJob.model_validate(self.job)
        ending = await _ending(job.name, accompany(job, _say))
        self._ended = True
        yield TriggerEvent({"job": self.job, **ending})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """End the job on NeMo: its task was marked, cleared or cancelled by a person."""
        if self._ended:
            return
        log.info("the task was ended by a person: ending its job on NeMo")
        await end(NemoJob.model_validate(self.job), _say)


class ServingTrigger(BaseTrigger):
    """Has the champion in force served by a NIM, and the alias point to it.

    Args:
        order: a `ServingOrder`, as JSON.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.order = order
        self._ended = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"order": self.order}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Serve; the one event says how it ended: {"order", "good", "refused", "sentence"}."""
        install()
        order = ServingOrder.model_validate(self.order)
        ending = await _ending(order.name, serve(order, _say))
        self._ended = True
        yield TriggerEvent({"order": self.order, **ending})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Take away what was deployed for nothing: the task was marked or cancelled by a person."""
        if not self._ended:
            await let_go(ServingOrder.model_validate(self.order), _say)


async def _ending(name: str, work: Awaitable[None]) -> dict[str, Any]:
    """Wait for some work; return how it ended."""
    ending: dict[str, Any] = {"good": False, "refused": False, "sentence": ""}
    try:
        await work
        ending["good"] = True
    except FlywheelError as error:
        ending.update(refused=isinstance(error, RefusedJobError), sentence=f"{name}: {error}")
    except Exception as error:
        log.exception("%s: not accompanied any further", name)
        ending["sentence"] = f"{name}: {type(error).__name__}: {error}"
    return ending


def _say(line: str) -> None:
    log_job_line(log, line)
