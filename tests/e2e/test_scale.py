"""300 candidates of a job that does next to nothing: does the DAG stay usable, and what limits it?"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.installation import CONNECTION, Airflow

CANDIDATES = int(os.environ.get("SCALE_CANDIDATES", "300"))

DAG = '''
from datetime import datetime
from airflow.sdk import dag
from flywheel.config.loading import validate_config
from flywheel.runtimes.kubernetes.operator import PodOperator
from flywheel.runtimes.kubernetes.pods import PodJob
import json, os

SETTINGS = json.loads(os.environ["SCALE_SETTINGS"])
CONFIG = validate_config(SETTINGS["config"], "scale")


class Candidate(PodOperator):
    """A pod by the number of its candidate alone."""

    template_fields = ()

    def __init__(self, *, number, **arguments):
        root = "s3://none/none"
        spec = f"{root}/runs/scale/jobs/a@{number + 1}/customize.spec.json"
        job = PodJob("customize", "customize", CONFIG.students[0], number + 1, "runs/scale", spec, root)
        super().__init__(job=job, config=CONFIG, **arguments)
        self.number = number


@dag(dag_id="flywheel", schedule=None, catchup=False, max_active_tasks=64)
def scale():
    Candidate.partial(task_id="customize", retries=1).expand(number=list(range(SETTINGS["candidates"])))


scale()
'''


@pytest.fixture(scope="module")
def airflow(own_cluster: OwnCluster, drill_image: str) -> Iterator[Airflow]:
    """Give an Airflow with the drill's DAG alone."""
    home = Path(tempfile.mkdtemp(prefix="flywheel-e2e-", dir="/var/tmp"))
    home.chmod(0o755)
    name = "flywheel-scale"
    own_cluster.kubectl("create", "namespace", name)
    own_cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    own_cluster.kubectl("-n", name, "create", "serviceaccount", "flywheel-student")
    flat = own_cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json")
    (home / "kubeconfig").write_text(flat)
    (home / "scale").mkdir()
    (home / "scale" / "dag.py").write_text(DAG)
    pods = {
        "connection": CONNECTION, "namespace": name, "image": drill_image, "log_seconds": 5,
        "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"},
        "environment": {"DRILL": "say:done"},
    }  # fmt: skip
    config = {
        "nims": [{"model_name": "drill/a", "name": "a", "gpus": 1}],
        "artifacts": {"root": "s3://none/none"},
        "runtime": {"type": "kubernetes", "kubernetes": pods},
    }
    settings = {"AIRFLOW__CORE__DAGS_FOLDER": str(home / "scale"), "AIRFLOW__TRIGGERER__CAPACITY": "1000"}
    settings["SCALE_SETTINGS"] = json.dumps({"config": config, "candidates": CANDIDATES})
    started = Airflow(home, str(home / "kubeconfig"), settings)
    started.configure("nims: []\n")
    try:
        started.start()
        yield started
    finally:
        started.remove()
        own_cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_many_candidates_leave_the_dag_usable(own_cluster: OwnCluster, airflow: Airflow) -> None:
    own_cluster.gpus(8)
    before = requests(own_cluster)
    began = time.monotonic()
    airflow.trigger("scale")
    slowest, deferred = 0.0, 0
    while airflow.state("scale") not in ("success", "failed"):
        asked = time.monotonic()
        states = [task["state"] for task in airflow.tasks("scale")]
        slowest = max(slowest, time.monotonic() - asked)
        deferred = max(deferred, states.count("deferred"))
        assert time.monotonic() - began < 2400
        time.sleep(5)
    seconds = time.monotonic() - began
    done = [task for task in airflow.tasks("scale") if task["state"] == "success"]
    made = requests(own_cluster) - before
    print(
        f"{CANDIDATES} candidates in {seconds:.0f} s: {60 * len(done) / seconds:.0f} tasks a minute, at most "
        f"{deferred} deferred at once, {made / CANDIDATES:.1f} API requests a candidate ({made / seconds:.1f}/s), "
        f"slowest answer of the UI's API {slowest:.1f} s"
    )
    assert len(done) == CANDIDATES


def requests(cluster: OwnCluster) -> float:
    """Return how many requests about pods the API server has served to others than its own parts."""
    lines: list[Any] = cluster.kubectl("get", "--raw", "/metrics").splitlines()
    counted = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("apiserver_request_total") and 'resource="pods"' in line
    ]
    return sum(counted)
