"""The section `runtime.kubernetes`: how the pods of jobs look, and how long flywheel waits for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flywheel.config.section import Section

if TYPE_CHECKING:
    from flywheel.config.schema import Config

# As Kubernetes writes quantities: 500m, 2, 1.5, 8Gi, 2e9.
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?|Ki|e\d+)?")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _is_quantity(value: str) -> str:
    if not _QUANTITY.fullmatch(value):
        raise ValueError("a quantity as Kubernetes writes it, such as 500m, 2 or 8Gi")
    return value


def _is_dns_label(value: str) -> str:
    if not _DNS_LABEL.fullmatch(value):
        raise ValueError("a name of small letters, digits and '-', such as 'flywheel'")
    return value


def _as_text(value: Any) -> Any:
    # YAML reads `cpu: 2` as a number.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_as_text), AfterValidator(_is_quantity)]
Resources = dict[str, Quantity]
DnsLabel = Annotated[str, AfterValidator(_is_dns_label)]


class Toleration(Section):
    """A taint of nodes that pods tolerate."""

    key: str | None = Field(None, description="As in a pod's tolerations.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="As in a pod's tolerations.")
    value: str | None = Field(None, description="As in a pod's tolerations.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="As in a pod's tolerations."
    )
    toleration_seconds: int | None = Field(None, ge=0, description="As in a pod's tolerations.")


class PodOverrides(Section):
    """What a student's pods have differently; requests, limits, selectors and variables are merged."""

    image: str | None = Field(None, description="Instead of runtime.kubernetes.image.")
    requests: Resources = Field(default_factory=dict, description="Merged over all pods'.")
    limits: Resources = Field(default_factory=dict, description="Merged over all pods'.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Merged over all pods'.")
    tolerations: tuple[Toleration, ...] | None = Field(None, description="Instead of all pods'.")
    priority_class: str | None = Field(None, description="Instead of all pods'.")
    environment: dict[str, str] = Field(default_factory=dict, description="Merged over all pods'.")
    pod_template: str | None = Field(None, description="Instead of all pods'.")


class KubernetesConfig(Section):
    """Pods of the runtime `kubernetes`: one for each job, GPUs as many as the student's `gpus`."""

    connection: str | None = Field(
        None,
        description="Airflow connection of the cluster; null: the one that Airflow runs in, else KUBECONFIG.",
    )
    namespace: DnsLabel = Field("flywheel", description="Where the pods run.")
    image: str = Field(
        "flywheel-student:0.2.0",
        min_length=1,
        description="Made by docker/student.Dockerfile; best by digest: NAME@sha256:...",
    )
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When a node fetches the image."
    )
    image_pull_secrets: tuple[str, ...] = Field((), description="Names of secrets of the namespace.")
    service_account: str = Field(
        "flywheel-student", description="It needs no rights; its token is not mounted."
    )
    requests: Resources = Field(
        default_factory=lambda: {"cpu": "1", "memory": "4Gi"}, description="What a pod is given at least."
    )
    limits: Resources = Field(
        default_factory=lambda: {"cpu": "4", "memory": "8Gi"}, description="What a pod is given at most."
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="What a student's `gpus` are counted in.")
    scratch: Quantity = Field("20Gi", description="Most that a pod may write to /tmp, and to its home, each.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints that pods tolerate.")
    priority_class: str | None = Field(None, description="PriorityClass of all pods.")
    priority_classes: tuple[str, ...] = Field(
        (), description="Or one each, for the students from the last of `nims` on; the last one for the rest."
    )
    volume_claim: str | None = Field(
        None, description="PersistentVolumeClaim with the artifact root, where that is a folder."
    )
    environment: dict[str, str] = Field(default_factory=dict, description="Variables; no secrets here.")
    secrets: tuple[str, ...] = Field((), description="Names of secrets whose keys become variables.")
    run_as_user: int | None = Field(10001, ge=1, description="null: the cluster chooses (OpenShift).")
    pod_template: str | None = Field(
        None,
        description="A pod as YAML, for all else; what flywheel sets goes over it. The container is `base`.",
    )
    students: dict[str, PodOverrides] = Field(
        default_factory=dict, description="By short name: what differs."
    )
    wait_hours: float = Field(
        24.0, gt=0, description="Longest wait for a place, such as a free GPU, or for quota."
    )
    start_minutes: float = Field(
        20.0, gt=0, description="Longest time from a place to a running job: image, volumes."
    )
    lost_minutes: float = Field(10.0, gt=0, description="Longest time without an answer of the cluster.")
    log_seconds: float = Field(5.0, gt=0, description="Seconds between two looks into a running pod's log.")
    keep_failed_pods: bool = Field(False, description="Leave a failed pod there, for a look at it.")

    @model_validator(mode="after")
    def _requests_fit_limits(self) -> KubernetesConfig:
        if self.priority_class and self.priority_classes:
            raise ValueError("priority_class or priority_classes, not both")
        return self

    def check_needs(self, config: Config) -> None:
        """Raise ValueError where the rest of the config does not go with pods."""
        root = config.artifacts.root
        if "://" not in root and not self.volume_claim:
            raise ValueError(
                f"runtime.kubernetes.volume_claim, as pods do not see the folder {root!r}: the claim of the "
                "volume with it; or an artifacts.root such as s3://bucket/flywheel"
            )
