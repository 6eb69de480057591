"""PodOperator: Airflow's KubernetesPodOperator for one job of a student, always deferred.

The pod is described here, on a worker, which needs no rights in the cluster for that; the trigger makes it,
so that neither a queue for GPUs nor a full quota nor an API server that restarts holds a worker slot.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiClient

from flywheel.config import Config
from flywheel.errors import JobError
from flywheel.runtimes.base import RefusedJobError
from flywheel.runtimes.kubernetes.pods import PodJob, pod_arguments
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
        self.defer(trigger=self.trigger(context), method_name="trigger_reentry")

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> None:
        """Take what became of the pod.

        Raises:
            RefusedJobError: the job said that what it was given is wrong.
            JobError: it ended in another way than well.
        """
        check(event)

    def trigger(self, context: Any) -> PodTrigger:
        """Return the trigger that accompanies the pod of this try."""
        # dry_run: without a client of the cluster, which a worker need not reach.
        pod = self.build_pod_request_obj(context, dry_run=True)
        manifest = ApiClient().sanitize_for_serialization(pod)
        deadline = None
        if self.execution_timeout is not None:
            deadline = context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds()
        patience = Patience(
            place=self.pods.wait_hours * 3600,
            start=self.pods.start_minutes * 60,
            answer=self.pods.lost_minutes * 60,
            log=self.pods.log_seconds,
            deadline=deadline,
        )
        return PodTrigger(self.pods.connection, manifest, patience.__dict__, self.pods.keep_failed_pods)


def check(event: dict[str, Any]) -> None:
    """Raise where a pod did not do its job.

    Raises:
        RefusedJobError: the job said that what it was given is wrong.
        JobError: it ended in another way than well.
    """
    if event["refused"]:
        raise RefusedJobError(event["sentence"])
    if not event["good"]:
        raise JobError(event["sentence"])
