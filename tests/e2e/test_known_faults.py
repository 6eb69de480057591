"""Faults that users of Airflow's deferrable pods have met, played together on a real Airflow and a real cluster.

FAULTS_OF=stock plays them with Airflow's own operator, to see which of them it still has (docs/kubernetes.md).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.processes import wait_until
from tests.e2e.experiment import live_pod
from tests.e2e.installation import Airflow

pytestmark = pytest.mark.drill

OPERATOR = os.environ.get("FAULTS_OF", "ours")
LEFT_FOR = 60.0  # a pod that is there so long after its task was ended is left behind


@dataclass
class Stage:
    """The drills' DAGs and pods."""

    cluster: OwnCluster
    airflow: Airflow

    def begin(self, fault: str) -> None:
        self.airflow.trigger("r", f"{fault}_{OPERATOR}")

    def pod(self, fault: str) -> dict[str, Any]:
        return live_pod(self.cluster, self.airflow.drills, f"dag_id={fault}_{OPERATOR}")

    def runs(self, fault: str) -> bool:
        return (
            bool(self.pod(fault).get("status", {}).get("phase") == "Running")
            and self.state(fault) == "deferred"
        )

    def state(self, fault: str) -> str:
        tasks = self.airflow.tasks("r", f"{fault}_{OPERATOR}")
        return str(tasks[0]["state"]) if tasks else ""

    def end(self, fault: str, seconds: float = 120) -> str:
        return self.airflow.wait("r", seconds, f"{fault}_{OPERATOR}")

    def gone(self, fault: str) -> bool:
        """Return whether the pod goes in time."""
        try:
            wait_until("the pod to go", lambda: not self.pod(fault), LEFT_FOR)
        except TimeoutError:
            return False
        return True


@pytest.fixture(scope="module")
def stage(own_cluster: OwnCluster, airflow: Airflow) -> Stage:
    """Give the drills, begun: a triggerer was killed and another started while their pods ran."""
    made = Stage(own_cluster, airflow)
    for fault in ("started", "killed", "retried"):
        made.begin(fault)
    for fault in ("started", "killed"):
        wait_until(f"the pod of {fault}", lambda fault=fault: made.runs(fault), 120)
    airflow.kill_component("triggerer")
    made.begin("timeout")
    time.sleep(25)  # longer than the time that `started` gives a pod to start
    started = datetime.now(UTC)
    airflow.start_component("triggerer")
    # A busy machine takes half a minute to start it, and what is timed is what it does.
    wait_until("the triggerer", lambda: airflow.has_triggerer(started), 180)
    return made


def test_a_task_that_is_marked_takes_its_pod_along(stage: Stage) -> None:
    """apache/airflow 62398."""
    task = ("r", "pod", -1)
    stage.airflow.patch_task(*task, "failed", f"killed_{OPERATOR}")
    assert stage.gone("killed")


def test_a_task_that_is_cleared_has_a_pod_of_its_own(stage: Stage) -> None:
    """apache/airflow 44014."""
    stage.airflow.clear_task("r", "pod", -1, f"killed_{OPERATOR}")
    wait_until("a pod", lambda: stage.runs("killed"), 120)
    first = stage.pod("killed")["metadata"]["uid"]
    stage.airflow.clear_task("r", "pod", -1, f"killed_{OPERATOR}")
    wait_until(
        "another pod", lambda: stage.runs("killed") and stage.pod("killed")["metadata"]["uid"] != first, 120
    )
    namespaced = stage.cluster.get("-n", stage.airflow.drills, "pods", "-l", f"dag_id=killed_{OPERATOR}")
    live = [pod for pod in namespaced["items"] if "deletionTimestamp" not in pod["metadata"]]
    stage.airflow.patch_task("r", "pod", -1, "failed", f"killed_{OPERATOR}")
    assert len(live) == 1
    assert stage.gone("killed")


def test_execution_timeout_holds_while_deferred(stage: Stage) -> None:
    """apache/airflow 67227."""
    assert stage.end("timeout") == "failed"
    assert stage.gone("timeout")
    log = stage.airflow.log("r", "pod", dag=f"timeout_{OPERATOR}")
    assert "execution_timeout" in log


def test_a_running_pod_is_not_out_of_time_to_start_after_the_triggerer_was_away(stage: Stage) -> None:
    """apache/airflow 40018."""
    assert stage.end("started", 180) == "success", stage.airflow.log("r", "pod", dag=f"started_{OPERATOR}")


def test_a_retry_has_a_new_pod_where_the_failed_one_is_kept(stage: Stage) -> None:
    """apache/airflow 58490."""
    assert stage.end("retried") == "failed"
    pods = stage.cluster.get("-n", stage.airflow.drills, "pods", "-l", f"dag_id=retried_{OPERATOR}")["items"]
    tries = [pod["metadata"]["labels"]["try_number"] for pod in pods]
    stage.cluster.kubectl("-n", stage.airflow.drills, "delete", "pods", "-l", f"dag_id=retried_{OPERATOR}")
    assert "2" in tries


def test_a_pod_that_is_collected_before_its_task_goes_on_is_no_failure(stage: Stage) -> None:
    """apache/airflow 66716: the pod ends well, the scheduler is away, and the cluster takes the pod."""
    stage.begin("collected")
    wait_until("the pod", lambda: stage.runs("collected"), 120)
    stage.airflow.kill_component("scheduler")
    wait_until("the event", lambda: stage.state("collected") != "deferred", 60)
    chosen = ("-l", f"dag_id=collected_{OPERATOR}")
    stage.cluster.kubectl("-n", stage.airflow.drills, "delete", "pods", *chosen)
    stage.airflow.start_component("scheduler")
    assert stage.end("collected") == "success"
