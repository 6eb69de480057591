"""Many candidates of a job that does next to nothing: does the DAG stay usable, and what limits it?

SCALE_CANDIDATES=300 make drills-kubernetes     the drill at its full size
"""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.processes import wait_until
from tests.e2e.conftest import CANDIDATES
from tests.e2e.installation import COMPONENTS, Airflow

pytestmark = pytest.mark.drill

# A candidate; one took a second on two cores that had ten other things to do.
LIMIT_SECONDS = 4.0


def test_many_candidates_leave_the_dag_usable(own_cluster: OwnCluster, airflow: Airflow) -> None:
    own_cluster.gpus(8)
    before, spent, busy = requests(own_cluster), seconds_of_cpu(own_cluster, airflow), psutil.cpu_times()
    began = time.monotonic()
    airflow.trigger("scale", "scale")
    slowest, deferred = 0.0, 0
    while airflow.state("scale", "scale") not in ("success", "failed"):
        asked = time.monotonic()
        states = [task["state"] for task in airflow.tasks("scale", "scale")]
        slowest = max(slowest, time.monotonic() - asked)
        deferred = max(deferred, states.count("deferred"))
        assert time.monotonic() - began < 60 + LIMIT_SECONDS * CANDIDATES
        time.sleep(5)
    seconds = time.monotonic() - began
    done = [task for task in airflow.tasks("scale", "scale") if task["state"] == "success"]
    made = requests(own_cluster) - before
    idle = (psutil.cpu_times().idle - busy.idle) / psutil.cpu_count() / seconds
    print(
        f"{CANDIDATES} candidates in {seconds:.0f} s: {60 * len(done) / seconds:.0f} tasks a minute, at most "
        f"{deferred} deferred at once, {made / CANDIDATES:.1f} requests about pods a candidate "
        f"({made / seconds:.1f}/s), slowest list of all tasks {slowest:.1f} s, machine idle {idle:.0%}"
    )
    now = seconds_of_cpu(own_cluster, airflow)
    print("CPU seconds: " + ", ".join(f"{name} {now[name] - spent[name]:.0f}" for name in now))
    assert len(done) == CANDIDATES
    wait_until("the last pod to go", lambda: not left(own_cluster, airflow.drills), 60)


def left(cluster: OwnCluster, namespace: str) -> list[str]:
    """Return the names of the drill's pods."""
    return cluster.kubectl("-n", namespace, "get", "pods", "-l", "dag_id=scale", "-o", "name").split()


def requests(cluster: OwnCluster) -> float:
    """Return how many requests about pods the API server has served, those of its own parts among them."""
    lines: list[Any] = cluster.kubectl("get", "--raw", "/metrics").splitlines()
    counted = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("apiserver_request_total") and 'resource="pods"' in line
    ]
    return sum(counted)


def seconds_of_cpu(cluster: OwnCluster, airflow: Airflow) -> dict[str, float]:
    """Return the CPU time that each part has used, with the processes that it has started and waited for."""
    parts = {name: (airflow.processes, name) for name in (*COMPONENTS, "postgres")}
    parts |= {
        f"kube {name}": (cluster.processes, name) for name in ("apiserver", "kubelet", "containerd", "etcd")
    }
    return {name: processes.seconds_of_cpu(part) for name, (processes, part) in parts.items()}
