"""The NetworkPolicies of docker/kubernetes, enforced: whom a job's pod can call, and who can call it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.settings import NODE_IP
from tests.e2e.experiment import Ground
from tests.e2e.pods import drill_trigger

# Further addresses of this machine, as those of an object store beside the cluster, of the world, and of its own link,
# where clouds keep the credentials of their machines.
STORE, WORLD, LINK = "10.89.0.2", "203.0.113.7", "169.254.77.7"
SERVED_HERE = {
    "store": f"{STORE}:443",
    "world": f"{WORLD}:443",
    "world at 80": f"{WORLD}:80",
    "link": f"{LINK}:443",
}
NAMES = {"names", "names by UDP"}

# Listens at each address:port by TCP, and gives back what comes by UDP.
SERVE = """
import socket, sys, threading

def welcome(listening):
    while True:
        listening.accept()[0].close()

def echo(listening):
    while True:
        listening.sendto(*listening.recvfrom(9))

for place in sys.argv[1:]:
    host, port = place.split(":")
    threading.Thread(target=welcome, args=[socket.create_server((host, int(port)))]).start()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind((host, int(port)))
    threading.Thread(target=echo, args=[datagrams]).start()
"""

# Prints which places answer.
CALL = """
import json, socket, sys

def answers(by, host, port):
    with socket.socket(type=socket.SOCK_DGRAM if by == "udp" else socket.SOCK_STREAM) as calling:
        calling.settimeout(2)
        try:
            calling.connect((host, int(port)))
            return by == "tcp" or bool(calling.send(b"?") and calling.recv(9))
        except OSError:
            return False

print(json.dumps([name for name, place in json.loads(sys.argv[1]).items() if answers(*place.split(":"))]))
"""


class Pod:
    """A pod that listens at some ports and calls whom it is told to."""

    def __init__(self, cluster: OwnCluster, manifest: dict[str, Any], *ports: int) -> None:
        self.cluster = cluster
        self.namespace, self.name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        (container,) = manifest["spec"]["containers"]
        places = [f"0.0.0.0:{port}" for port in ports]
        container |= {"command": ["python3", "-c", SERVE, *places], "args": []}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))

    def address(self) -> str:
        """Wait until it runs, and return its address."""
        self.cluster.kubectl(
            "-n", self.namespace, "wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=120s"
        )
        pod: Any = self.cluster.get("-n", self.namespace, "pod", self.name)
        return str(pod["status"]["podIP"])

    def reached(self, places: dict[str, str]) -> set[str]:
        """Return which of these places it reaches now, each a protocol:address:port by its name."""
        said = self.cluster.kubectl(
            "-n", self.namespace, "exec", self.name, "--", "python3", "-c", CALL, json.dumps(places)
        )
        return set(json.loads(said))

    def delete(self) -> None:
        """End it at once."""
        end = ("--grace-period=0", "--force", "--wait=false")
        self.cluster.kubectl("-n", self.namespace, "delete", "pod", self.name, *end)


def job_pod(namespace: str, image: str, name: str, **labels: str) -> dict[str, Any]:
    """Return the manifest of a job's pod, as the runtime makes it but for these labels."""
    manifest: dict[str, Any] = drill_trigger(namespace, image, "", name=name).manifest
    manifest["metadata"] |= {"namespace": namespace, "labels": labels or manifest["metadata"]["labels"]}
    return manifest


def settles(look: Callable[[], set[str]], wanted: set[str]) -> None:
    """Wait until something is seen: rules follow pods and policies within seconds, not at once."""
    deadline = time.monotonic() + 120
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == wanted


@pytest.fixture(scope="module")
def stranger(own_cluster: OwnCluster, policies: None, drill_image: str) -> Iterator[Pod]:
    """Give a pod of somebody else's, in a namespace without policies."""
    name = f"stranger-{uuid.uuid4().hex[:6]}"
    own_cluster.kubectl("create", "namespace", name)
    own_cluster.kubectl("-n", name, "create", "serviceaccount", "flywheel-student")
    yield Pod(own_cluster, job_pod(name, drill_image, "stranger", whose="other"), 8080)
    own_cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def names(own_cluster: OwnCluster, policies: None, drill_image: str) -> Iterator[Pod]:
    """Give a pod in the place of the cluster's name server, which our own cluster has none of."""
    container = {
        "name": "base", "image": drill_image, "imagePullPolicy": "IfNotPresent", "securityContext": {"runAsUser": 0},
    }  # fmt: skip
    metadata = {
        "name": f"names-{uuid.uuid4().hex[:6]}",
        "namespace": "kube-system",
        "labels": {"k8s-app": "kube-dns"},
    }
    spec = {"containers": [container], "automountServiceAccountToken": False}
    made = Pod(own_cluster, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, 53, 8080)
    yield made
    made.delete()


@pytest.fixture(scope="module")
def places(names: Pod, stranger: Pod) -> Iterator[dict[str, str]]:
    """Give places to call, all there as long as the tests run."""
    addresses = [f"{address}/32" for address in (STORE, WORLD, LINK)]
    for address in addresses:
        subprocess.run(["ip", "addr", "replace", address, "dev", "node0"], check=True)
    serving = subprocess.Popen([sys.executable, "-c", SERVE, *SERVED_HERE.values()])
    name_server = names.address()
    yield {
        "names": f"tcp:{name_server}:53",
        "names by UDP": f"udp:{name_server}:53",
        "names at 8080": f"tcp:{name_server}:8080",
        "stranger": f"tcp:{stranger.address()}:8080",
        "kubelet": f"tcp:{NODE_IP}:10250",
        **{name: f"tcp:{place}" for name, place in SERVED_HERE.items()},
    }
    serving.kill()
    serving.wait()
    for address in addresses:
        subprocess.run(["ip", "addr", "del", address, "dev", "node0"], capture_output=True)


@pytest.mark.parametrize(
    ("overlay", "opened"), [("small", set()), ("gpu", {"world"}), ("s3", {"world", "store"})]
)
def test_a_job_calls_only_whom_its_overlay_opens_and_nobody_calls_it_until_the_policies_are_gone(
    own_cluster: OwnCluster,
    ground: Ground,
    drill_image: str,
    places: dict[str, str],
    stranger: Pod,
    overlay: str,
    opened: set[str],
) -> None:
    namespace = ground.apply(f"overlays/{overlay}")
    job = Pod(own_cluster, job_pod(namespace, drill_image, "job"), 8080)
    airflow = Pod(own_cluster, job_pod(namespace, drill_image, "airflow", tier="airflow"), 8080)
    inside = {"job": f"tcp:{job.address()}:8080", "airflow": f"tcp:{airflow.address()}:8080"}
    all_places = places | {"airflow": inside["airflow"]}

    settles(lambda: job.reached(all_places), NAMES | opened)
    settles(lambda: stranger.reached(inside), {"airflow"})
    settles(lambda: airflow.reached(places | {"job": inside["job"]}), set(places))

    own_cluster.kubectl("-n", namespace, "delete", "networkpolicies", "--all")
    settles(lambda: job.reached(all_places), set(all_places))
    settles(lambda: stranger.reached(inside), set(inside))
    job.delete()
    airflow.delete()
