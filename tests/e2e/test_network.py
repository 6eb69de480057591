"""The NetworkPolicies of docker/kubernetes, enforced: whom a job's pod can call, and who can call it."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.calling_pods import SERVE, Pod, job_pod
from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.settings import NODE_IP
from tests.e2e.experiment import Ground

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
