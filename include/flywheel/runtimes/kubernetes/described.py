"""What Airflow's KubernetesPodOperators for flywheel's jobs have in common: a described pod, and its trigger.

What a pod looks like is said by the config of the plan, and by arguments of the DAG file, which go before it.
It is described when the task's fields are rendered, so that Airflow shows it; that needs no rights in the
cluster. The trigger makes it, so that neither a queue for GPUs nor a full quota nor an API server that
restarts holds a worker slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import yaml
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiClient

from flywheel.config import Config
from flywheel.config.kubernetes import KubernetesConfig
from flywheel.runtimes.kubernetes.explain import Pod
from flywheel.runtimes.kubernetes.job import PodJob
from flywheel.runtimes.kubernetes.job_trigger import JobTrigger
from flywheel.runtimes.kubernetes.pods import pod_arguments
from flywheel.runtimes.kubernetes.trigger import Limits

# Of a pod as it is shown: what says nothing about it.
_EMPTY: tuple[Any, ...] = (None, {}, [])


class DescribedPod(KubernetesPodOperator):
    """A task whose pod is described by a config. Comes after the operator that says what its job is.

    Attributes:
        own_fields: template fields of that operator.
        given: names of the arguments that the DAG file itself gives.
        manifest: the pod as the API takes it, once it is described.
    """

    custom_operator_name = "KubernetesPodOperator"
    template_fields_renderers = {**KubernetesPodOperator.template_fields_renderers, "pod_spec": "yaml"}  # noqa: RUF012  Airflow's form
    own_fields: ClassVar[tuple[str, ...]] = ()
    given: tuple[str, ...]

    def __init__(self, **arguments: Any) -> None:
        # To Airflow's operator do_xcom_push means a container beside the job's that reads a file of it.
        super().__init__(**{"do_xcom_push": True, **arguments})
        self.pod_spec: str | None = None
        self.manifest: Pod | None = None

    def pod_job(self, context: Any) -> tuple[PodJob, Config]:
        """Return the job of the pod, and the config that describes it."""
        raise NotImplementedError

    def describe(self, job: PodJob, config: Config, context: Any = None) -> Pod:
        """Set the arguments that say what the pod looks like; return it, as the API takes it.

        Args:
            context: of the task, or {"ti", "run_id", "dag"}: what Airflow's own labels say.

        Raises:
            ConfigError: it cannot be described from this config.
        """
        for name, value in pod_arguments(job, config).items():
            if name not in self.given:
                setattr(self, name, value)
        pod = self.build_pod_request_obj(context, dry_run=True)  # dry: without a client of the cluster
        self.manifest = ApiClient().sanitize_for_serialization(pod)
        self.pod_spec = yaml.safe_dump(_shown(self.manifest), sort_keys=False, width=120)
        return self.manifest

    def trigger(
        self, context: Any, pods: KubernetesConfig, result: dict[str, str] | None = None
    ) -> JobTrigger:
        """Return the trigger that accompanies the described pod of this try.

        Args:
            result: where the job's result will be: {"root": URL of the artifact root, "path"}.
        """
        deadline = None
        if self.execution_timeout is not None:
            deadline = context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds()
        limits = Limits.of(pods, deadline)
        assert self.manifest is not None
        return JobTrigger(
            self.kubernetes_conn_id, self.manifest, limits.__dict__, pods.keep_failed_pods, result
        )

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> Any:
        """Return the pod, without a container for XCom: what a job gives is in the artifact root."""
        pushes, self.do_xcom_push = self.do_xcom_push, False
        try:
            return super().build_pod_request_obj(context, dry_run=dry_run)
        finally:
            self.do_xcom_push = pushes

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Any, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render what the DAG file gives; the rest is the plan's, and said as it is."""
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
            return
        own = [name for name in template_fields if name in (*self.own_fields, *self.given)]
        super()._do_render_template_fields(parent, own, context, jinja_env, seen_oids)
        try:
            self.describe(*self.pod_job(context), context)
        except Exception as error:  # the same is met, and told, when the task is done
            self.log.debug("the pod cannot be shown: %s", error)


def _shown(value: Any) -> Any:
    """Return a pod's description without what is empty."""
    if isinstance(value, dict):
        return {name: shown for name, inner in value.items() if (shown := _shown(inner)) not in _EMPTY}
    return [_shown(inner) for inner in value] if isinstance(value, list) else value
