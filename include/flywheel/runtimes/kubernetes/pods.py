"""The pod of a job: name, labels and the arguments of Airflow's KubernetesPodOperator, from typed config.

A pod passes the pod security standard 'restricted': no root, no privileges, no capabilities, the default
seccomp profile; its root file system is read-only and it has no token of the cluster.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import models as k8s

from flywheel.common.errors import ConfigError
from flywheel.common.redaction import is_secret_name
from flywheel.config import Config, Student
from flywheel.config.kubernetes import KubernetesConfig, Toleration
from flywheel.config.loading import resolve_path
from flywheel.config.secrets import has_userinfo
from flywheel.runtimes.kubernetes.job import MANAGED_BY, RUN_ID, PodJob, root_label

# Where docker/student.Dockerfile puts the project and the user's home.
POD_HOME = "/opt/flywheel"
USER_HOME = "/home/flywheel"

CONTAINER = "base"
# Between the SIGTERM of a deletion, on which a training saves its state, and SIGKILL.
GRACE_SECONDS = 15


def pod_arguments(job: PodJob, config: Config) -> dict[str, Any]:
    """Return the arguments of a KubernetesPodOperator for a job.

    Raises:
        ConfigError: the job's spec is not in the artifact root of the config, or there is no pod template.
    """
    pods, own = config.runtime.kubernetes, config.runtime.kubernetes.students.get(job.student.name)
    return {
        **common_arguments(config, job.student),
        "name": job.name,
        "arguments": [job.kind, spec_in_pod(job, _root_in_pod(config.artifacts.root))],
        "labels": labels(job, config.client_id),
        "annotations": {"flywheel/spec": job.spec, RUN_ID: job.run_id},
        "pod_template_file": _template((own and own.pod_template) or pods.pod_template),
    }


def common_arguments(config: Config, student: Student | None = None) -> dict[str, Any]:
    """Return the arguments that the pods of all jobs have, or of all jobs of a student."""
    pods = config.runtime.kubernetes
    own = pods.students.get(student.name) if student else None
    requests = {**pods.requests, **(own.requests if own else {})}
    limits = {**pods.limits, **(own.limits if own else {})}
    if student and student.gpus:
        requests[pods.gpu_resource] = limits[pods.gpu_resource] = str(student.gpus)
    tolerations = own.tolerations if own and own.tolerations is not None else pods.tolerations
    cores = str(_cores(limits.get("cpu", "1")))
    environment = {
        "HOME": USER_HOME,
        "USER": "flywheel",  # for libraries that ask: the user's number need not have a name
        "FLYWHEEL_HOME": POD_HOME,
        "FLYWHEEL_THREADS": cores,
        "OMP_NUM_THREADS": cores,
        "TMPDIR": "/tmp",  # noqa: S108
        "TRITON_CACHE_DIR": "/tmp/triton",  # noqa: S108
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",  # noqa: S108
        **pods.environment,
        **(own.environment if own else {}),
    }
    priority = priority_class(pods, config, student) if student else pods.priority_class
    return {
        "random_name_suffix": False,
        "namespace": pods.namespace,
        "image": (own and own.image) or pods.image,
        "image_pull_policy": pods.image_pull_policy,
        "image_pull_secrets": [k8s.V1LocalObjectReference(name=name) for name in pods.image_pull_secrets],
        "service_account_name": pods.service_account,
        "automount_service_account_token": False,
        "base_container_name": CONTAINER,
        "env_vars": [k8s.V1EnvVar(name=name, value=value) for name, value in environment.items()],
        "env_from": [
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in pods.secrets
        ],
        "container_resources": k8s.V1ResourceRequirements(requests=requests, limits=limits),
        "node_selector": {**pods.node_selector, **(own.node_selector if own else {})},
        "tolerations": [_toleration(toleration) for toleration in tolerations],
        "priority_class_name": (own and own.priority_class) or priority,
        "security_context": _pod_security(pods.run_as_user),
        "container_security_context": k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
            run_as_non_root=True,
        ),
        "volumes": _volumes(pods),
        "volume_mounts": _mounts(pods, _root_in_pod(config.artifacts.root)),
        "full_pod_spec": k8s.V1Pod(
            metadata=k8s.V1ObjectMeta(), spec=k8s.V1PodSpec(containers=[], enable_service_links=False)
        ),
        "termination_grace_period": GRACE_SECONDS,
        # The end of what a job printed goes into its pod's status: why it failed, even without logs.
        "termination_message_policy": "FallbackToLogsOnError",
        # Counts from the start of the pod on its node: waiting for a GPU takes nothing from a job's time.
        "active_deadline_seconds": math.ceil(config.runtime.job_timeout_hours * 3600),
        "kubernetes_conn_id": pods.connection,
    }


def labels(job: PodJob, client_id: str) -> dict[str, str]:
    """Return the labels of a job's pod; Airflow adds its own: dag_id, run_id, task_id, try_number."""
    found = {
        **MANAGED_BY,
        "app.kubernetes.io/name": "flywheel",
        "app.kubernetes.io/component": job.stage.replace("_", "-"),
        "flywheel/student": job.student.name,
        "flywheel/client": _label(client_id),
        "flywheel/root": root_label(job.root),
        "flywheel/run": run_label(job.root, job.run_path),
    }
    if job.size is not None:
        found["flywheel/size"] = str(job.size)
    return found


def run_label(root: str, run_path: str) -> str:
    """Return the value of the label that all pods of one run have and no others."""
    digest = hashlib.sha256(f"{root}\0{run_path}".encode()).hexdigest()[:8]
    return f"{_label(run_path.rsplit('/', 1)[-1])[:50].rstrip('-_.')}-{digest}"


def priority_class(pods: KubernetesConfig, config: Config, student: Student) -> str | None:
    """Return a student's PriorityClass: the first of the list is the last student's, as big ones go first."""
    if not pods.priority_classes:
        return pods.priority_class
    names = [other.name for other in reversed(config.students)]
    rank = names.index(student.name) if student.name in names else len(names)  # a champion of old
    return pods.priority_classes[min(rank, len(pods.priority_classes) - 1)]


def spec_in_pod(job: PodJob, root: str) -> str:
    """Return the path or URL of the job's spec as its pod sees it.

    Raises:
        ConfigError: it is not in the artifact root.
    """
    if not job.spec.startswith(f"{job.root}/"):
        raise ConfigError(f"{job.spec}: not in the artifact root {job.root}")
    return f"{root}/{job.spec.removeprefix(job.root).lstrip('/')}"


def _template(path: str | None) -> str | None:
    """Return the file of a pod template; of one that is not there Airflow would only warn."""
    if path is None:
        return None
    file = resolve_path(path)
    if not Path(file).is_file():
        raise ConfigError(f"runtime.kubernetes, pod_template {path!r}: there is no file {file}")
    for name in _secrets_in(yaml.safe_load(Path(file).read_text())):
        raise ConfigError(
            f"{file}: the variable {name} holds a secret itself, which all who see the pod see; expected "
            "valueFrom.secretKeyRef, or the secret's name in runtime.kubernetes.secrets"
        )
    return file


def _secrets_in(pod: Any) -> Iterator[str]:
    """Give the variables of a pod whose values are secrets in plain text."""
    if isinstance(pod, list):
        for inner in pod:
            yield from _secrets_in(inner)
    elif isinstance(pod, dict):
        name, value = str(pod.get("name", "")), pod.get("value")
        if value and (is_secret_name(name) or has_userinfo(str(value))):
            yield name
        for inner in pod.values():
            yield from _secrets_in(inner)


def _root_in_pod(root: str) -> str:
    root = root.rstrip("/")
    return root if "://" in root or root.startswith("/") else f"{POD_HOME}/{root}"


def _pod_security(user: int | None) -> k8s.V1PodSecurityContext:
    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=user,
        run_as_group=user,
        fs_group=user,
        fs_group_change_policy="OnRootMismatch",  # not through all adapters at each start
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )


def _volumes(pods: KubernetesConfig) -> list[k8s.V1Volume]:
    writable = [
        k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=pods.scratch))
        for name in ("tmp", "home")
    ]
    if not pods.volume_claim:
        return writable
    claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=pods.volume_claim)
    return [*writable, k8s.V1Volume(name="artifacts", persistent_volume_claim=claim)]


def _mounts(pods: KubernetesConfig, root: str) -> list[k8s.V1VolumeMount]:
    writable = [
        k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108
        k8s.V1VolumeMount(name="home", mount_path=USER_HOME),
    ]
    if not pods.volume_claim:
        return writable
    return [*writable, k8s.V1VolumeMount(name="artifacts", mount_path=root)]


def _toleration(toleration: Toleration) -> k8s.V1Toleration:
    return k8s.V1Toleration(**toleration.model_dump())


def _cores(amount: str) -> int:
    """Return the whole cores in a quantity of CPU, at least one."""
    cores = float(amount.removesuffix("m")) / 1000 if amount.endswith("m") else float(amount)
    return max(1, math.floor(cores))


def _label(value: str) -> str:
    """Return text as the value of a label: at most 63 letters, digits, '-', '_' and '.'."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", value)[:63].strip("-_.")
