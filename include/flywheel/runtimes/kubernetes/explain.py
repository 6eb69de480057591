"""What a pod waits for or died of, as one sentence for people, with what to do.

Works on the pod as the API gives it, as plain JSON (camelCase keys), so that it needs no client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flywheel.common.redaction import clean
from flywheel.runtimes.base import REFUSED
from flywheel.runtimes.kubernetes.others import (
    MANY_FAILURES,
    flat,
    init_failure,
    last_said,
    running_init,
    sidecar_failure,
    stuck_init,
    whose,
)
from flywheel.runtimes.kubernetes.pods import CONTAINER

Pod = dict[str, Any]

# Waiting reasons that another minute does not mend, with what to do.
_NO_IMAGE = (
    "see that runtime.kubernetes.image names an image that the node can pull, and image_pull_secrets its key"
)
_STUCK = {
    "InvalidImageName": "is no name of an image; mend runtime.kubernetes.image",
    "ErrImageNeverPull": "is not on the node and image_pull_policy is Never; load it there, or allow pulling",
    "ImageInspectError": "cannot be read on the node; remove it there, so that it is pulled anew",
    "ErrImagePull": f"cannot be pulled: {_NO_IMAGE}",
    "ImagePullBackOff": f"cannot be pulled: {_NO_IMAGE}",
}
_PULLS = ("ErrImagePull", "ImagePullBackOff")
_NOT_CREATED = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CreatePodSandboxError",
)

_MEMORY = "raise runtime.kubernetes.limits.memory, or lower training_config.batch_size"
_NODE = "see that the node is up and has room: kubectl describe node"
DELETED = "see who deletes pods of the namespace: a person, a cleaner, or the end of its node"
_LEFT_ITS_NODE = re.compile("Node(Lost|Shutdown)|Shutdown|Terminated|UnexpectedAdmissionError|Preempting")
# By the reason of a pod's condition DisruptionTarget.
_DISRUPTED = {
    "PreemptionByScheduler": "give it a higher runtime.kubernetes.priority_class, or add nodes",
    "DeletionByTaintManager": _NODE,
    "DeletionByPodGC": _NODE,
    "TerminationByKubelet": _NODE,
    "EvictionByEvictionAPI": "keep its node from being drained while it runs: a PodDisruptionBudget does",
}

# A claim that is made together with the run is there by then.
CLAIM_SECONDS = 15.0

_UNITS = {"": 1.0, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)
}


@dataclass(frozen=True)
class Ending:
    """How a pod ended.

    Attributes:
        good: the job did its work.
        sentence: why not, and at its end what to do; empty when good.
        refused: the same job would be refused again: a retry is of no use.
        mend: that end of the sentence, which is given without it.
    """

    good: bool
    sentence: str = ""
    refused: bool = False
    mend: str = ""

    def __post_init__(self) -> None:
        told = f"{self.sentence}; {self.mend}" if self.mend else self.sentence
        object.__setattr__(self, "sentence", clean(told))  # it may end with what the job printed


def ending(pod: Pod) -> Ending | None:
    """Return how the pod's job ended; None while it has not."""
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    phase, reason = status.get("phase"), status.get("reason", "")
    terminated = _container(pod).get("state", {}).get("terminated")
    if phase == "Succeeded" or (terminated and terminated.get("exitCode") == 0):
        return Ending(good=True)
    if phase != "Failed" and not terminated:
        return None
    return _failure(pod, name, reason, terminated or {})


def _failure(pod: Pod, name: str, reason: str, terminated: dict[str, Any]) -> Ending:
    status = pod.get("status", {})
    message = flat(status.get("message", ""))
    disrupted = _condition(pod, "DisruptionTarget")
    again = "its next try goes on from the last checkpoint"
    if reason == "DeadlineExceeded":
        return Ending(False, f"{name}: not done in its time", mend="raise runtime.job_timeout_hours")
    if reason == "Evicted":
        what = f"{name}: evicted from its node ({message}); {again}"
        return Ending(False, what, mend=_evicted_advice(message))
    if terminated.get("reason") == "OOMKilled":
        limit = _resources(pod).get("limits", {}).get("memory", "no limit")
        what = f"{name}: killed as it needed more memory than its limit of {limit}"
        return Ending(False, what, mend=_MEMORY)
    if disrupted and disrupted.get("status") == "True":
        why = flat(disrupted.get("message", "")) or disrupted.get("reason", "")
        what = f"{name}: removed from its node by the cluster ({why}); {again}"
        return Ending(False, what, mend=removed_mend(pod))
    refused = reason.startswith(("OutOf", "NodeAffinity", "NodePorts"))
    if refused or _LEFT_ITS_NODE.fullmatch(reason):
        does = "refused it" if refused else "could not keep it"
        return Ending(False, f"{name}: its node {does} ({reason}: {message}); {again}", mend=_NODE)
    beside = init_failure(pod) or sidecar_failure(pod)
    if not terminated and beside:
        return Ending(False, f"{name}: {beside.sentence}")
    if not terminated:
        why = (
            f"{reason}: {message}" if reason and message else reason or message or "its node does not say why"
        )
        return Ending(False, f"{name}: it ended before its container had started ({why}); {again}")
    code = terminated.get("exitCode")
    said = last_said(terminated.get("message", ""))
    if code == REFUSED and said.startswith("error: "):
        return Ending(False, f"{name}: {said.removeprefix('error: ')}", refused=True)
    if code == 137:
        what = f"{name}: killed by signal 9, by the node or by its memory; {again}"
        return Ending(False, what, mend=_MEMORY)
    if code in (125, 126, 127, 128) or terminated.get("reason") in ("StartError", "ContainerCannotRun"):
        return Ending(
            False,
            f"{name}: the image's program cannot be started ({said or terminated.get('reason')})",
            mend="build the image anew from docker/student.Dockerfile",
        )
    also = f"; beside it, {beside.sentence}" if beside else ""
    what = said or message or "it printed nothing"
    return Ending(False, f"{name}: ended with exit code {code}: {what}{also}")


def waiting_for(pod: Pod) -> str:
    """Return what a pod that does not run yet waits for; empty when it runs or has ended."""
    status = pod.get("status", {})
    if status.get("phase") not in (None, "Pending", "Unknown"):
        return ""
    scheduled = _condition(pod, "PodScheduled")
    if not scheduled:
        return "the cluster's scheduler"
    if scheduled.get("status") != "True":
        return (
            f"a place for {needs(pod)}: {flat(scheduled.get('message', '')) or scheduled.get('reason', '')}"
        )
    waiting = _container(pod).get("state", {}).get("waiting", {})
    node = pod.get("spec", {}).get("nodeName", "its node")
    failed, stuck = init_failure(pod), stuck_init(pod)
    if failed:
        return f"{node} to start it again: {failed.sentence}"
    if stuck:
        return f"{node}: its init container {stuck[0]!r}: {stuck[2]}: {stuck[3]}"
    if init := running_init(pod):
        return f"its init container {init!r} to end"
    if waiting.get("reason") in (None, "ContainerCreating", "PodInitializing"):
        return f"{node} to fetch its image and mount its volumes"
    return f"{node}: {waiting['reason']}: {flat(waiting.get('message', ''))}"


def hopeless(pod: Pod, unschedulable: float) -> str:
    """Return why a waiting pod will not start, with what to do; empty while it may.

    Args:
        unschedulable: seconds that it has been without a place.
    """
    scheduled = _condition(pod, "PodScheduled")
    name = pod["metadata"]["name"]
    if scheduled and scheduled.get("status") != "True":
        claim = re.search(r'persistentvolumeclaim "([^"]+)" not found', scheduled.get("message", ""))
        if claim and unschedulable > CLAIM_SECONDS:
            return (
                f"{name}: its namespace has no PersistentVolumeClaim {claim[1]!r}; create it, or mend "
                "runtime.kubernetes.volume_claim"
            )
        return ""
    failed, stuck = init_failure(pod), stuck_init(pod)
    if failed and failed.times >= MANY_FAILURES:
        return f"{name}: {failed.sentence}"
    if stuck:
        init, image, reason, message = stuck
        if reason in _STUCK and not (reason in _PULLS and _passing(message)):
            does = _STUCK[reason].partition(":")[0].partition(";")[0]
            return f"{name}: image {image!r} {does} ({message}); {whose(init)}"
        if reason in _NOT_CREATED:
            return f"{name}: a container cannot be made: {message}; {whose(init)}"
        return ""
    waiting = _container(pod).get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), flat(waiting.get("message", ""))
    image = _container_spec(pod).get("image", "")
    if reason in _PULLS and _passing(message):
        return ""
    if reason in _STUCK:
        return f"{name}: image {image!r} {_STUCK[reason]} ({message})"
    if reason in _NOT_CREATED:
        return f"{name}: its container cannot be made: {message}; create what is missing in the namespace"
    return ""


def unplaced(pod: Pod, hours: float) -> str:
    """Return the sentence for a pod that found no place in all its time."""
    scheduled = _condition(pod, "PodScheduled") or {}
    why = flat(scheduled.get("message", "")) or "the scheduler has not looked at it"
    return (
        f"{pod['metadata']['name']}: Unschedulable: no place for {needs(pod)} in {hours:g} h: {why}; "
        "free or add such nodes, ask for less, or raise runtime.kubernetes.wait_hours"
    )


def needs(pod: Pod) -> str:
    """Return what a pod asks the scheduler for, such as `1 nvidia.com/gpu, 4 cpu, 8Gi memory`."""
    resources = _resources(pod)
    asked = {**resources.get("limits", {}), **resources.get("requests", {})}
    first = sorted(asked, key=lambda name: (name in ("cpu", "memory", "ephemeral-storage"), name))
    return ", ".join(f"{asked[name]} {name}" for name in first) or "a pod"


def refusal(status: int, message: str, namespace: str, name: str) -> tuple[str, bool]:
    """Return why the cluster refused to make a pod, and whether it may be admitted later.

    Args:
        status: of the HTTP answer.
        message: the API server's.
    """
    message = flat(message)
    quota = re.search(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)", message)
    if quota:
        asked, limited = _amount(quota[2]), _amount(quota[4])
        sentence = (
            f"{name}: quota {quota[1]} of namespace {namespace} is used up (asked for {quota[2]}, "
            f"used {quota[3]} of {quota[4]})"
        )
        if asked is not None and limited is not None and asked > limited:
            return f"{sentence}; it can never fit: ask for less, or have the quota raised", False
        return sentence, True
    if "failed quota" in message:
        return f"{name}: refused by a quota of namespace {namespace} ({message}); set what it asks for", False
    if "violates PodSecurity" in message:
        return (
            f"{name}: namespace {namespace} does not admit it: {message.partition('violates ')[2]}; "
            "take out of runtime.kubernetes.pod_template what it objects to",
            False,
        )
    if 'namespaces "' in message and status == 404:
        return (
            f"{name}: there is no namespace {namespace!r}; create it, or mend runtime.kubernetes.namespace",
            False,
        )
    if "no PriorityClass with name" in message:
        return (
            f"{name}: {message.rpartition(': ')[2]}; create it, or mend runtime.kubernetes.priority_classes",
            False,
        )
    if "serviceaccount" in message and "not found" in message:
        return (
            f"{name}: {message.rpartition('error looking up ')[2]}; create it, or mend "
            "runtime.kubernetes.service_account",
            False,
        )
    if status == 401 or (status == 403 and "cannot" in message and " is forbidden: User " in message):
        return (
            f"{name}: Airflow may not make pods in namespace {namespace} ({message}); "
            "see docker/kubernetes/base/access.yaml",
            False,
        )
    return f"{name}: the cluster refused it ({status}): {message}", False


def deletion(pod: Pod) -> str:
    """Return by whom a pod was deleted, as far as the cluster says."""
    disrupted = _condition(pod, "DisruptionTarget")
    if disrupted and disrupted.get("status") == "True":
        return f"removed by the cluster ({flat(disrupted.get('message', '')) or disrupted.get('reason', '')})"
    return "deleted from outside"


def removed_mend(pod: Pod) -> str:
    """Return what to do about a pod that was deleted, or removed from its node."""
    disrupted = _condition(pod, "DisruptionTarget") or {}
    return _DISRUPTED.get(disrupted.get("reason", ""), DELETED)


def times(pod: Pod) -> str:
    """Return where a finished pod's time went, such as `0.4 s to a node, 1.2 s to start, 33 s of work`."""
    terminated = _container(pod).get("state", {}).get("terminated", {})
    stamps = [
        pod["metadata"].get("creationTimestamp"),
        scheduled_at(pod),
        terminated.get("startedAt"),
        terminated.get("finishedAt"),
    ]
    if not all(stamps):
        return "ended before it started"
    made, placed, started, finished = (datetime.fromisoformat(str(stamp)) for stamp in stamps)
    parts = ((placed - made, "to a node"), (started - placed, "to start"), (finished - started, "of work"))
    return ", ".join(f"{max(0.0, span.total_seconds()):.0f} s {what}" for span, what in parts)


def age(stamp: str | None) -> float:
    """Return the seconds since a time of the API; 0 for none."""
    if not stamp:
        return 0.0
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())


def scheduled_at(pod: Pod) -> str | None:
    """Return when the pod was given a node; None while it has none."""
    condition = _condition(pod, "PodScheduled")
    return condition.get("lastTransitionTime") if condition and condition.get("status") == "True" else None


def is_running(pod: Pod) -> bool:
    """Return whether the job's container runs."""
    return "running" in _container(pod).get("state", {})


def has_started(pod: Pod) -> bool:
    """Return whether the job's container runs or has run: there is a log."""
    state = _container(pod).get("state", {})
    return "running" in state or "terminated" in state


def _container(pod: Pod) -> dict[str, Any]:
    for container in pod.get("status", {}).get("containerStatuses") or ():
        if container["name"] == CONTAINER:
            return dict(container)
    return {}


def _container_spec(pod: Pod) -> dict[str, Any]:
    for container in pod.get("spec", {}).get("containers") or ():
        if container["name"] == CONTAINER:
            return dict(container)
    return {}


def _resources(pod: Pod) -> dict[str, Any]:
    return dict(_container_spec(pod).get("resources") or {})


def _condition(pod: Pod, kind: str) -> dict[str, Any] | None:
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == kind:
            return dict(condition)
    return None


def _evicted_advice(message: str) -> str:
    low = message.lower()
    if "had condition" in low:  # before it began: nothing that it did
        return "its node was short of that before the job began: free it, or keep pods off it"
    if "low on resource" in low and any(word in low for word in ("ephemeral", "disk", "inodes", "nodefs")):
        return (
            "its node ran short of disk: free it, or ask for ephemeral-storage in runtime.kubernetes.requests"
        )
    if any(word in low for word in ("emptydir", "ephemeral", "disk")):
        return "raise runtime.kubernetes.scratch where it writes more than that"
    if "memory" in low:
        return "raise runtime.kubernetes.requests.memory to what it uses"
    return "see what its node was short of"


def _passing(message: str) -> bool:
    """Return whether an image's pull failed for a reason that goes by."""
    passing = (
        "too many requests",
        "toomanyrequests",
        "rate limit",
        "timeout",
        "bad gateway",
        "unavailable",
        "qps exceeded",
    )
    return any(word in message.lower() for word in passing)


def _amount(entry: str) -> float | None:
    """Return the amount in `requests.cpu=500m`; None where it is several."""
    match = re.fullmatch(r"[^=,]+=(\d+(?:\.\d+)?)([a-zA-Z]*)", entry)
    if not match or match[2] not in _UNITS:
        return None
    return float(match[1]) * _UNITS[match[2]]
