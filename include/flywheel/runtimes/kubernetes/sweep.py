"""The end of a run in a cluster: no pod of it is left, whatever happened to the tasks that had them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from flywheel.config.kubernetes import KubernetesConfig
from flywheel.runtimes.kubernetes.pods import run_label
from flywheel.runtimes.kubernetes.watch import SELECTOR, Namespace

log = logging.getLogger(__name__)


class SweepOperator(BaseOperator):
    """Deletes the pods of a run that are still there after all its jobs have ended.

    A task that is marked while the triggerer is down is one that could leave a pod behind.
    """

    def execute(self, context: Any) -> None:
        """Defer to the trigger, which alone has the right to delete pods."""
        from flywheel.orchestration.context import run_of

        run = run_of(context)
        config = run.plan.config.runtime
        if config.type == "kubernetes":
            self.defer(trigger=sweep(config.kubernetes, run.root.url, run.path), method_name="resume")

    def resume(self, context: Any, event: dict[str, Any]) -> list[str]:
        """Return the names of the pods that were deleted."""
        return list(event["deleted"])


def sweep(pods: KubernetesConfig, root: str, run_path: str) -> SweepTrigger:
    """Return the trigger that deletes the pods of a run."""
    selector = f"{SELECTOR},flywheel/run={run_label(root, run_path)}"
    return SweepTrigger(pods.connection, pods.namespace, selector)


class SweepTrigger(BaseTrigger):
    """Deletes the pods that have certain labels."""

    def __init__(self, connection: str | None, namespace: str, selector: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.connection = connection
        self.namespace = namespace
        self.selector = selector

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        arguments = {"connection": self.connection, "namespace": self.namespace, "selector": self.selector}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Delete them; the event names them."""
        async with Namespace.shared(self.connection, self.namespace) as cluster:
            names = await cluster.names(self.selector)
            for name in names:
                log.warning("pod %s was left behind: deleted", name)
                await cluster.delete(name)
        yield TriggerEvent({"deleted": names})  # type: ignore[no-untyped-call]
