"""The end of a run in a cluster: no pod of it is left, whatever happened to the tasks that had them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from flywheel.config.kubernetes import KubernetesConfig
from flywheel.runs.names import airflow_run, run_id_of
from flywheel.runtimes.kubernetes.job import RUN_ID, SELECTOR, root_label

log = logging.getLogger(__name__)


class SweepOperator(BaseOperator):
    """Deletes the pods that are still there of this run, whose jobs have all ended, and of earlier runs.

    A task or run that is marked while the triggerer is down is one that could leave a pod behind.
    """

    def execute(self, context: Any) -> None:
        """Ask the trigger what is there: it alone has rights in the cluster."""
        config = self._config(context)
        if config is not None:
            self.defer(trigger=self._trigger(context, config), method_name="sort_out")

    def sort_out(self, context: Any, event: dict[str, Any]) -> None:
        """Have the pods deleted whose run is this one, or one that this Airflow knows to have ended."""
        left = {
            run_id: names
            for run_id, names in event["pods"].items()
            if run_id == run_id_of(context["run_id"], self.dag_id) or self._has_ended(context, run_id)
        }
        config = self._config(context)
        if left and config is not None:
            names = [name for some in left.values() for name in some]
            self.log.warning("pods that were left behind: %s", ", ".join(names))
            self.defer(trigger=self._trigger(context, config, names), method_name="resume")

    def resume(self, context: Any, event: dict[str, Any]) -> list[str]:
        """Return the names of the pods that were deleted."""
        return list(event["deleted"])

    def _config(self, context: Any) -> KubernetesConfig | None:
        from flywheel.runtimes.context import run_of

        runtime = run_of(context).plan.config.runtime
        return runtime.kubernetes if runtime.type == "kubernetes" else None

    def _trigger(
        self, context: Any, config: KubernetesConfig, delete: list[str] | None = None
    ) -> SweepTrigger:
        from flywheel.runtimes.context import run_of

        selector = f"{SELECTOR},flywheel/root={root_label(run_of(context).root.url)}"
        return SweepTrigger(config.connection, config.namespace, selector, delete)

    def _has_ended(self, context: Any, run_id: str) -> bool:
        count = context["ti"].get_dr_count
        dag_id, airflow_id = airflow_run(run_id)
        known = count(dag_id=dag_id, run_ids=[airflow_id])
        return bool(known) and not count(dag_id=dag_id, run_ids=[airflow_id], states=["queued", "running"])


class SweepTrigger(BaseTrigger):
    """Lists the pods that have certain labels, or deletes some of them.

    Args:
        connection: Airflow connection of the cluster; None: in-cluster, else KUBECONFIG.
        namespace: where.
        selector: of labels.
        delete: names of those to delete; None: list them all.
    """

    def __init__(
        self, connection: str | None, namespace: str, selector: str, delete: list[str] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.connection = connection
        self.namespace = namespace
        self.selector = selector
        self.delete = delete

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        names = ("connection", "namespace", "selector", "delete")
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            name: getattr(self, name) for name in names
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Say what there is: {"pods": names by run id}; or what was deleted: {"deleted": names}."""
        from flywheel.runtimes.kubernetes.watch import Namespace  # here: the DAG file imports this module

        async with Namespace.shared(self.connection, self.namespace) as cluster:
            if self.delete is None:
                found: dict[str, list[str]] = {}
                for pod in await cluster.pods(self.selector):
                    run_id = pod["metadata"].get("annotations", {}).get(RUN_ID, "")
                    found.setdefault(run_id, []).append(pod["metadata"]["name"])
                answer: dict[str, Any] = {"pods": found}
            else:
                for name in self.delete:
                    await cluster.delete(name)
                answer = {"deleted": self.delete}
        yield TriggerEvent(answer)  # type: ignore[no-untyped-call]
