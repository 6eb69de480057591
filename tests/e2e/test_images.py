"""docker/airflow.Dockerfile: the image of Airflow's own components, under the rules that job pods are under."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.images import ensure_image
from tests.e2e.cluster.processes import wait_until
from tests.e2e.experiment import Ground

pytestmark = pytest.mark.drill

# As a new database and the DAG processor find it. What is not asked about goes to the error stream.
ASK = """set -eu
say() { echo "$1 $($2 2>/dev/null | tail -n 1)"; }
say version "airflow version"
say user "id -u"
airflow db migrate >&2
airflow dag-processor --num-runs 1 >&2
say errors "airflow dags list-import-errors -o json"
say dags "airflow dags list -o json"
say plugins "airflow plugins -o json"
flywheel --help >&2
flywheel plan first --cutoff 2025-03-04 >&2
"""


def test_airflow_starts_in_its_image_and_imports_the_dag_and_the_plugins(
    own_cluster: OwnCluster, ground: Ground
) -> None:
    image = ensure_image(own_cluster, "airflow")
    namespace = ground.apply("base")
    writable = {
        "scratch": "/tmp",
        "home": "/opt/airflow",
        "state": "/opt/flywheel/state",
        "made": "/opt/flywheel/artifacts",
    }
    container = {
        "name": "airflow",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", ASK],
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"cpu": "2", "memory": "2Gi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in writable.items()],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 0, "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": name, "emptyDir": {}} for name in writable],
    }  # fmt: skip
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "airflow", "namespace": namespace},
        "spec": spec,
    }
    own_cluster.kubectl("create", "-f", "-", stdin=json.dumps(pod))

    def phase() -> str:
        return own_cluster.kubectl("-n", namespace, "get", "pod", "airflow", "-o", "jsonpath={.status.phase}")

    wait_until("the end of the pod", lambda: phase() in ("Succeeded", "Failed"), 300)
    log = own_cluster.kubectl("-n", namespace, "logs", "airflow")
    assert phase() == "Succeeded", log[-3000:]
    print(log)
    said = dict(line.split(" ", 1) for line in log.splitlines() if line.partition(" ")[0] in EXPECTED)
    assert {name: said[name] for name in ("version", "user")} == {"version": "3.3.2", "user": "10001"}
    assert said["errors"].strip() in ("No data found", "[]")
    assert [dag["dag_id"] for dag in json.loads(said["dags"])] == ["flywheel"]
    assert {"flywheel", "flywheel_results"} <= {plugin["name"] for plugin in json.loads(said["plugins"])}


EXPECTED = ("version", "user", "errors", "dags", "plugins")
