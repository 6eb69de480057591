"""What goes wrong in a cluster, in turn, under the whole DAG: the same table, or one clear sentence; no pod is left."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.processes import wait_until
from tests.e2e.experiment import (
    FirstRun,
    experiment,
    freeze_in_training,
    live_pod,
    pods,
    running,
    uid_of,
)
from tests.e2e.installation import Airflow, table

pytestmark = pytest.mark.drill


@pytest.fixture(autouse=True)
def two_gpus(own_cluster: OwnCluster) -> None:
    """Let the node have two GPUs."""
    own_cluster.gpus(2)


def test_faults_in_turn_change_nothing_in_the_table_and_leave_no_pod(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str, first: FirstRun
) -> None:
    """Triggerer and scheduler killed, a pod deleted, API server and kubelet away: the same table."""
    namespace = airflow.namespace
    airflow.configure(
        experiment(namespace, student_image, gpus=1, training_config={"checkpoint_seconds": 0.2})
    )
    for made in ("adapters", "evaluations"):  # so that all of it is done again
        shutil.rmtree(airflow.home / "artifacts" / made)
    airflow.trigger("disturbed")

    wait_until("a pod", lambda: bool(running(own_cluster, namespace, "customize")), 300)
    airflow.kill_component("triggerer")
    time.sleep(5)
    airflow.start_component("triggerer")

    victim = freeze_in_training(own_cluster, namespace)
    own_cluster.kubectl("-n", namespace, "delete", "pod", victim, "--grace-period=1", "--wait=false")

    airflow.kill_component("scheduler")
    airflow.start_component("scheduler")

    own_cluster.stop("apiserver", 9)
    time.sleep(15)
    own_cluster.start("apiserver")

    own_cluster.stop("kubelet", 9)
    time.sleep(60)
    own_cluster.start("kubelet")

    assert airflow.wait("disturbed", 900) == "success"
    assert table(airflow.report("disturbed")) == table(airflow.report("first"))
    assert pods(own_cluster, namespace) == []
    student, size = victim.split("-")[2:4]  # fw-customize-large-400-1234abcd
    made = airflow.home / f"artifacts/runs/disturbed/jobs/{student}@{size}/customize.json"
    result = json.loads(made.read_text())["result"]
    print(f"{victim}: resumed from step {result['resumed_from_step']} of {result['steps']}")
    assert result["resumed_from_step"], result


def test_too_little_memory_and_a_missing_image_are_lines_of_the_table(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str
) -> None:
    """Their candidates fail, each with its sentence; the others are measured."""
    students = {
        "medium": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}},
        "large": {"image": "localhost/no-such-image:1"},
    }
    more = {"data_split_config": {"random_seed": 9}, "runtime": {"kubernetes": {"students": students}}}
    airflow.configure(experiment(airflow.namespace, student_image, gpus=1, **more))
    airflow.trigger("failing", sizes=[100])
    assert airflow.wait("failing", 600) == "success"
    rows = {row["student"]: row for row in airflow.report("failing")["candidates"]}
    assert rows["small"]["state"] == "scored"
    print(rows["medium"]["reason"], rows["large"]["reason"], sep="\n")
    assert "needed more memory than its limit of 64Mi" in rows["medium"]["reason"]
    assert "image 'localhost/no-such-image:1' cannot be pulled" in rows["large"]["reason"]
    assert pods(own_cluster, airflow.namespace) == []


def test_marking_or_clearing_a_task_or_its_run_deletes_its_pod(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str
) -> None:
    namespace = airflow.namespace
    own_cluster.gpus(0)  # so that all pods wait
    airflow.configure(experiment(namespace, student_image, gpus=1, data_split_config={"random_seed": 7}))
    airflow.trigger("marked")
    wait_until("nine candidates to wait", lambda: len(pods(own_cluster, namespace)) >= 9, 300)
    deferred = [task for task in airflow.tasks("marked") if task["task_id"] == "candidate.customize"]
    assert {task["state"] for task in deferred} == {"deferred"}
    waits = "waiting for a place for 1 nvidia.com/gpu"
    wait_until("the log", lambda: waits in airflow.log("marked", "candidate.customize", 0), 30)

    one, two = (f"map_index={index},app.kubernetes.io/component=customize" for index in (0, 1))
    airflow.patch_task("marked", "candidate.customize", 0, "failed")
    wait_until("the pod to go", lambda: not live_pod(own_cluster, namespace, one), 60)

    before = uid_of(own_cluster, namespace, two)
    airflow.clear_task("marked", "candidate.customize", 1)
    wait_until("a new pod", lambda: uid_of(own_cluster, namespace, two) not in ("", before), 90)

    airflow.mark("marked", "failed")
    wait_until("all pods to go", lambda: pods(own_cluster, namespace) == [], 90)


def test_pods_that_nobody_could_delete_are_swept_by_the_next_run(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str, first: FirstRun
) -> None:
    """A run is marked while the triggerer is down: its pods stay, until another run ends."""
    namespace = airflow.namespace
    own_cluster.gpus(0)
    airflow.configure(experiment(namespace, student_image, gpus=1, data_split_config={"random_seed": 8}))
    airflow.trigger("abandoned", students=["small"], sizes=[100])
    wait_until("its pods", lambda: len(pods(own_cluster, namespace)) == 2, 300)
    airflow.kill_component("triggerer")
    airflow.mark("abandoned", "failed")
    airflow.start_component("triggerer")

    airflow.configure(experiment(namespace, student_image, gpus=1))
    airflow.trigger("after", students=["small"], sizes=[100])  # done before: no pod of its own
    assert airflow.wait("after", 300) == "success"
    assert pods(own_cluster, namespace) == []
