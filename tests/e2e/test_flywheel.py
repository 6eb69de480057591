"""The whole DAG on a real cluster: a namespace that enforces 'restricted', least rights, PostgreSQL."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.objects import KEY, SECRET, URL, ObjectStore
from tests.e2e.experiment import SIZES, STUDENTS, Watch, experiment, pods
from tests.e2e.installation import Airflow, table
from tests.e2e.overhead import overhead


@pytest.fixture(scope="module", autouse=True)
def two_gpus(own_cluster: OwnCluster) -> None:
    """Let the node have two GPUs."""
    own_cluster.gpus(2)


def test_the_whole_dag_gives_the_table_of_the_local_runtime(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str
) -> None:
    """Nine candidates on two GPUs: two at a time, the rest wait and hold no worker slot."""
    config = experiment(airflow.namespace, student_image, gpus=1)
    airflow.configure(config)
    began = time.monotonic()
    watch = Watch(own_cluster, airflow.namespace)
    airflow.trigger("first")
    waited, worked = 0, 0
    while airflow.state("first") not in ("success", "failed"):
        states = [task["state"] for task in airflow.tasks("first") if "customize" in task["task_id"]]
        waited, worked = max(waited, states.count("deferred")), max(worked, states.count("running"))
        assert time.monotonic() - began < 1200
        time.sleep(2)
    most = watch.stop()
    print(
        f"nine candidates: {time.monotonic() - began:.0f} s, at most {most} customizations at once, "
        f"up to {waited} deferred, up to {worked} in a worker slot"
    )
    failed = [task for task in airflow.tasks("first") if task["state"] not in ("success", "skipped")]
    assert airflow.state("first") == "success", [
        (task["task_id"], task["map_index"], task["state"],
         airflow.log("first", task["task_id"], task["map_index"], task["try_number"])[-1500:])
        for task in failed
    ]  # fmt: skip
    assert len(table(airflow.report("first"))) == len(STUDENTS) * len(SIZES)
    assert most == 2
    assert waited >= 7
    assert pods(own_cluster, airflow.namespace) == []
    log = airflow.log("first", "candidate.customize", 0)
    assert "to a node" in log, log
    assert "step" in log, log
    print(log)


def test_the_local_runtime_gives_the_same_table_and_a_pod_costs_little_more(airflow: Airflow) -> None:
    local = {"runtime": {"type": "local"}, "artifacts": {"root": "artifacts-local"}}
    airflow.trigger("local", overrides=local)
    assert airflow.wait("local", 600) == "success"
    assert table(airflow.report("local", "artifacts-local")) == table(airflow.report("first"))
    measured = overhead(airflow, "first", "local")
    print(json.dumps(measured))
    assert measured["jobs"] >= len(STUDENTS) * len(SIZES)


def test_the_service_account_has_only_what_is_needed(own_cluster: OwnCluster, airflow: Airflow) -> None:
    def rights(account: str) -> list[str]:
        user = f"--as=system:serviceaccount:{airflow.namespace}:{account}"
        listed = own_cluster.kubectl("-n", airflow.namespace, "auth", "can-i", "--list", user, "--no-headers")
        return [
            " ".join(line.split()) for line in listed.splitlines() if line[0] != " " and "self" not in line
        ]

    print("\n".join(rights("flywheel-airflow")))
    assert sorted(rights("flywheel-airflow")) == [
        "events [] [] [list]",
        "pods [] [] [create get list watch delete]",
        "pods/log [] [] [get]",
    ]
    assert rights("flywheel-student") == []


def test_artifacts_on_s3_give_the_same_table(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str, object_store: ObjectStore
) -> None:
    import s3fs

    remote = {"kubernetes": {"volume_claim": None, "secrets": ["flywheel-s3"]}}
    airflow.configure(
        experiment(
            airflow.namespace,
            student_image,
            gpus=1,
            artifacts={"root": "s3://bucket/flywheel"},
            runtime=remote,
        )
    )
    airflow.trigger("remote", students=["small"])
    assert airflow.wait("remote", 900) == "success"
    files = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=URL)
    report = table(json.loads(files.cat_file("bucket/flywheel/runs/remote/report.json")))
    assert report == {key: f1 for key, f1 in table(airflow.report("first")).items() if key[0] == "small"}
    assert pods(own_cluster, airflow.namespace) == []
