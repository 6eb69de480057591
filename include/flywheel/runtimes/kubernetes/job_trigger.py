"""JobTrigger: has a job done in a pod and, where that went well, ends its task: no worker starts for that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.redaction import install
from flywheel.runs.waits import Wait, waits
from flywheel.runtimes.context import facts
from flywheel.runtimes.kubernetes.explain import Pod
from flywheel.runtimes.kubernetes.trigger import PodTrigger
from flywheel.runtimes.kubernetes.watch import Namespace

log = logging.getLogger(__name__)

# So long is a result waited for here, once its pod has ended well; a worker looks longer.
RESULT_SECONDS = 3.0
_WAIT_MEND = (
    "Free or add what it waits for, or ask for less; it gives up after runtime.kubernetes.wait_hours without "
    "a place, or start_minutes with one."
)


class JobTrigger(PodTrigger):
    """Accompanies the pod of a job, and ends the task with the small facts of the job's result.

    Args:
        result: where that will be: {"root": URL of the artifact root, "path"}; None: the task ends itself. It
            may have "waits", too: the path at which is written down what the pod waits for.
    """

    def __init__(
        self,
        connection: str | None,
        manifest: Pod,
        limits: dict[str, Any],
        keep_failed: bool = False,
        result: dict[str, str] | None = None,
    ) -> None:
        super().__init__(connection, manifest, limits, keep_failed)
        self.result = result
        self._waits_for = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        path, arguments = super().serialize()
        return path, {**arguments, "result": self.result}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Accompany the pod, then end the task; where the result is not to be had, a worker goes on with it.

        The event of a task that goes on says how the pod ended: {"good", "sentence", "refused"}.
        """
        install()
        # The task takes an earlier try's result away before it defers: one that is there is this try's, whose
        # triggerer went down when it had taken the pod away.
        found = await self._facts()
        if found is not None and not await self.is_there():
            log.info("its pod was here and is gone, its result is there")
            yield TaskSuccessEvent(xcoms={"return_value": found})
            return
        async for event in super().run():
            await self._write_wait("")
            found = await self._facts(RESULT_SECONDS) if event.payload["good"] else None
            yield event if found is None else TaskSuccessEvent(xcoms={"return_value": found})

    async def _waits(self, what: str) -> None:
        await super()._waits(what)
        await self._write_wait(what.removeprefix("for "))

    async def _copy_log(self, cluster: Namespace, *, patient: bool = False) -> None:
        await self._write_wait("")  # it runs, or has ended
        await super()._copy_log(cluster, patient=patient)

    async def _write_wait(self, what: str) -> None:
        """Write down what the pod waits for, where that is new; empty: it waits no more."""
        if what == self._waits_for or self.result is None or "waits" not in self.result:
            return
        self._waits_for = what
        wait = Wait(sentence=f"its pod waits for {what}", mend=_WAIT_MEND) if what else None
        try:
            await asyncio.to_thread(waits, ArtifactRoot(self.result["root"]), self.result["waits"], wait)
        except Exception as error:  # this process may have no access to the artifact root
            log.debug("what pod %s waits for could not be written down: %s", self.name, error)

    async def _facts(self, seconds: float = 0.0) -> dict[str, Any] | None:
        """Return the small facts of the job's result; None where it is not to be seen from here so soon."""
        if self.result is None:
            return None
        deadline = time.monotonic() + seconds
        while (found := await asyncio.to_thread(self._read)) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return found

    def _read(self) -> dict[str, Any] | None:
        assert self.result is not None
        try:
            root, path = ArtifactRoot(self.result["root"]), self.result["path"]
            return facts(root.read_json(path)["result"]) if root.exists(path) else None
        except Exception as error:  # this process may have no access to the artifact root
            log.info("%s cannot be read here: %s", self.result, error)
            return None
