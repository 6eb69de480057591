"""The whole DAG on a real cluster: a namespace that enforces 'restricted', least rights, PostgreSQL."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.objects import KEY, SECRET, URL, ObjectStore
from tests.e2e.experiment import SIZES, STUDENTS, FirstRun, experiment, pods, run_locally
from tests.e2e.installation import Airflow, table
from tests.e2e.overhead import overhead


def test_nine_candidates_on_two_gpus_run_two_at_a_time_and_the_rest_hold_no_worker_slot(
    own_cluster: OwnCluster, airflow: Airflow, first: FirstRun
) -> None:
    failed = [task for task in airflow.tasks("first") if task["state"] not in ("success", "skipped")]
    assert first.state == "success", [
        (task["task_id"], task["map_index"], task["state"],
         airflow.log("first", task["task_id"], task["map_index"], task["try_number"])[-1500:])
        for task in failed
    ]  # fmt: skip
    print(first)
    assert len(table(airflow.report("first"))) == len(STUDENTS) * len(SIZES)
    assert first.at_once == 2
    assert first.deferred > first.at_once  # those that wait for a place are among them
    assert pods(own_cluster, airflow.namespace) == []
    log = airflow.log("first", "candidate.customize", 0)
    assert "to a node" in log, log
    assert "step" in log, log  # the progress of the training
    print(log)


def test_the_local_runtime_gives_the_same_table(airflow: Airflow, first: FirstRun) -> None:
    assert run_locally(airflow, "local") == "success"
    assert table(airflow.report("local", "artifacts-local")) == table(airflow.report("first"))
    print(json.dumps(overhead(airflow, "first", "local")["by_part"]))  # benchmarks/pods.py has the rest


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


@pytest.mark.drill
def test_artifacts_on_s3_give_the_same_table(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str, object_store: ObjectStore, first: FirstRun
) -> None:
    import s3fs

    own_cluster.gpus(2)
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
