"""PodOperator: Airflow's KubernetesPodOperator for one job of a student, always deferred.

It describes the pod, which needs no rights in the cluster; the trigger makes it, so that neither a queue for
GPUs nor a full quota nor an API server that restarts holds a worker slot. The DAG's tasks do not import it:
`JobTrigger` has it describe their pods in the triggerer.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiClient

from flywheel.config import Config
from flywheel.runtimes.kubernetes.job import PodJob, check
from flywheel.runtimes.kubernetes.pods import pod_arguments
from flywheel.runtimes.kubernetes.trigger import Patience, PodTrigger


class PodOperator(KubernetesPodOperator):
    """Runs a job in a pod.

    Args:
        job: what runs.
        config: of the run.
    """

    def __init__(self, *, job: PodJob, config: Config, **arguments: Any) -> None:
        super().__init__(**pod_arguments(job, config), deferrable=True, **arguments)
        self.pods = config.runtime.kubernetes

    def execute(self, context: Any) -> None:
        """Defer until the pod has ended."""
        deadline = None
        if self.execution_timeout is not None:
            deadline = context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds()
        self.defer(trigger=self.trigger(context, deadline), method_name="trigger_reentry")

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> None:
        """Take what became of the pod.

        Raises:
            RefusedJobError: the job said that what it was given is wrong.
            JobError: it ended in another way than well.
        """
        check(event)

    def trigger(self, context: Any, deadline: float | None = None) -> PodTrigger:
        """Return the trigger that accompanies the pod of this try.

        Args:
            context: of the task, or {"ti", "run_id", "dag"}: what the pod's labels say.
            deadline: unix time of the task's execution_timeout; None: no such.
        """
        # dry_run: without a client of the cluster, which a worker need not reach.
        pod = self.build_pod_request_obj(context, dry_run=True)
        manifest = ApiClient().sanitize_for_serialization(pod)
        patience = Patience(
            place=self.pods.wait_hours * 3600,
            start=self.pods.start_minutes * 60,
            answer=self.pods.lost_minutes * 60,
            log=self.pods.log_seconds,
            deadline=deadline,
        )
        return PodTrigger(self.pods.connection, manifest, patience.__dict__, self.pods.keep_failed_pods)
