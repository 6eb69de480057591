"""Cancelling a job by the API: its pods go, and it shows as cancelled."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.processes import wait_until
from tests.e2e.experiment import experiment, pods, running, wait_until_training
from tests.e2e.installation import Airflow

pytestmark = pytest.mark.drill

NOTHING_LEFT_SECONDS = 30
STAGES: dict[str, dict[str, Any]] = {
    "customize": {"training_config": {"epochs": 500}},
    "evaluate": {"evaluation_config": {"batch_size": 1}},
}


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_cancelled_job_leaves_no_pod(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str, stage: str
) -> None:
    """The pod that works goes, and those that wait for the GPU."""
    namespace, job = airflow.namespace, f"cancel-{stage}"
    own_cluster.gpus(1)
    more = {**STAGES[stage], "data_split_config": {"random_seed": 20 + len(stage)}}
    airflow.configure(experiment(namespace, student_image, gpus=1, **more))
    airflow.trigger(job, students=["small"], sizes=[100, 200])
    if stage == "customize":
        wait_until_training(own_cluster, namespace)
    else:
        wait_until("an evaluation", lambda: bool(running(own_cluster, namespace, stage)), 300)
    assert pods(own_cluster, namespace)

    began = time.monotonic()
    airflow.cancel(job)
    wait_until("all pods to go", lambda: pods(own_cluster, namespace) == [], NOTHING_LEFT_SECONDS)
    print(f"cancelled at {stage}: no pod left after {time.monotonic() - began:.1f} s")
    assert airflow.job(job)["status"] == "cancelled"
    assert airflow.wait(job, 120) == "failed"
    assert airflow.note(job).startswith("cancelled by ")
    assert pods(own_cluster, namespace) == []
    assert airflow.job(job)["status"] == "cancelled"
