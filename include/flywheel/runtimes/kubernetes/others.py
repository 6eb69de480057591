"""What the containers beside the job's own did: init containers and sidecars of a template or of a webhook.

Service meshes and secret managers put them into pods (`istio-init`, `vault-agent`). Where one fails, the
job's container has no state that would say why nothing happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flywheel.runtimes.kubernetes.pods import CONTAINER

Pod = dict[str, Any]

# An init container that has failed so often will not end well: Kubernetes has waited five minutes by then.
MANY_FAILURES = 5
_WHOSE = "see who adds it, runtime.kubernetes.pod_template or a webhook of the cluster"


@dataclass(frozen=True)
class ContainerFailure:
    """How a container beside the job's failed.

    Attributes:
        what: such as `init container 'istio-init'`.
        how: such as `exit code 1: iptables: no such table`.
        times: so often by now.
        ended: it is not started again.
    """

    what: str
    how: str
    times: int
    ended: bool

    @property
    def sentence(self) -> str:
        """What to tell, with what to do."""
        again = f" ({self.times} times)" if self.times > 1 else ""
        return f"its {self.what} failed{again} with {self.how}; {_WHOSE}"


def init_failure(pod: Pod) -> ContainerFailure | None:
    """Return how the first init container failed that has not ended well; None where none has."""
    for status in pod.get("status", {}).get("initContainerStatuses") or ():
        found = _failure(status, f"init container {status['name']!r}")
        if found:
            return found
    return None


def sidecar_failure(pod: Pod) -> ContainerFailure | None:
    """Return how a container beside the job's own failed, one that is not started again first."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    found = [
        failure
        for status in statuses
        if status["name"] != CONTAINER and (failure := _failure(status, f"container {status['name']!r}"))
    ]
    return min(found, key=lambda failure: not failure.ended, default=None)


def running_init(pod: Pod) -> str:
    """Return the name of the init container whose end the job waits for; empty without any."""
    stays = {
        spec["name"]
        for spec in pod.get("spec", {}).get("initContainers") or ()
        if spec.get("restartPolicy") == "Always"  # a sidecar that is started before
    }
    for status in pod.get("status", {}).get("initContainerStatuses") or ():
        if "running" in status.get("state", {}) and status["name"] not in stays:
            return str(status["name"])
    return ""


def stuck_init(pod: Pod) -> tuple[str, str, str, str] | None:
    """Return name, image, reason and message of an init container that waits to be made; None without any."""
    images = {spec["name"]: spec.get("image", "") for spec in pod.get("spec", {}).get("initContainers") or ()}
    for status in pod.get("status", {}).get("initContainerStatuses") or ():
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating", "CrashLoopBackOff"):
            image = images.get(status["name"]) or status.get("image", "")
            return status["name"], image, waiting["reason"], flat(waiting.get("message", ""))
    return None


def whose(name: str) -> str:
    """Return what to do about an init container that cannot be made."""
    return f"its init container {name!r} is not flywheel's: {_WHOSE}"


def flat(message: str) -> str:
    """Return a message on one line, without its full stop."""
    return " ".join(message.split()).rstrip(".")


def last_said(message: str) -> str:
    """Return the sentence in the last lines that a job printed: its own error, else the last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def _failure(status: dict[str, Any], what: str) -> ContainerFailure | None:
    state, last = status.get("state", {}), status.get("lastState", {})
    now = state.get("terminated")
    ended = now or (last.get("terminated") if "waiting" in state else None)
    if not ended or ended.get("exitCode") == 0:
        return None
    reason, code = ended.get("reason", ""), ended.get("exitCode")
    said = last_said(ended.get("message", "")) or (reason if reason not in ("", "Error") else "")
    how = f"exit code {code}" + (
        f": {said}" if said else f", and said nothing (kubectl logs -c {status['name']})"
    )
    if reason == "OOMKilled":
        how = f"exit code {code}, as it needed more memory than its limit"
    times = int(status.get("restartCount") or 0) + (1 if now else 0)
    return ContainerFailure(what, how, max(1, times), ended=bool(now))
