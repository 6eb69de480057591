"""A labelled history whose shards are pods on a real cluster, one of them killed in its middle."""

from __future__ import annotations

import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from examples.wheel import backfill
from flywheel.annotation.rows import ROW_GROUP
from flywheel.annotation.spec import ShardResult, ShardSpec
from flywheel.annotation.work import read_work, result_of
from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.runtimes import Job
from flywheel.runtimes.kubernetes.job import PodJob
from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.processes import wait_until
from tests.e2e.experiment import experiment, pods, signal_pod
from tests.e2e.installation import USER_ID, Airflow
from tests.unit.backfilled import night_config, write_demo

DAG, RUN = "flywheel_annotate", "history"
SPAN = {"from": "2024-02-01", "to": "2024-04-01"}
UNDISTURBED, KILLED = "2024-02-01", "2024-03-01"  # a shard is a month; in the second the champion changes
NIGHTS = (datetime(2024, 1, 31, 2, tzinfo=UTC), datetime(2024, 3, 10, 2, tzinfo=UTC))
TEXTS = 42_000  # of three months: each of the two has two row groups
OUT = "news_classifier/desk/point_in_time"


def test_shards_are_pods_and_one_that_is_killed_goes_on_to_the_bytes_of_this_machine(
    own_cluster: OwnCluster,
    airflow: Airflow,
    student_image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")  # as pods have: the nights' trainings, and what is compared
    _configure(airflow, student_image, tmp_path)
    root = ArtifactRoot(str(airflow.home / "artifacts"))
    airflow.trigger(RUN, DAG, **SPAN)
    path = f"annotations/work/{key_of('work', f'{root.url}/annotations/{OUT}')}"
    wait_until("the plan", lambda: root.exists(f"{path}/plan.json"), 120)
    work = read_work(root, path)
    assert work.shards == (UNDISTURBED, KILLED)

    pod = PodJob.of(Job("annotate-shard", f"{root.url}/{work.spec_path(KILLED)}", KILLED)).name
    _freeze_in_the_middle(root, work.read_spec(root, KILLED), pod)
    own_cluster.kubectl("-n", airflow.namespace, "delete", "pod", pod, "--grace-period=1", "--wait=false")

    assert airflow.wait(RUN, 400, DAG) == "success"
    wait_until("all pods to go", lambda: pods(own_cluster, airflow.namespace) == [], 60)
    shards = [task for task in airflow.tasks(RUN, DAG) if task["task_id"] == "annotate"]
    assert {task["rendered_map_index"]: task["try_number"] for task in shards} == {UNDISTURBED: 1, KILLED: 2}
    given = result_of(root, work.result_path(KILLED))
    assert isinstance(given, ShardResult)
    assert given.file is not None
    print(given)
    assert (given.found, given.asked) == (ROW_GROUP, given.file.rows - ROW_GROUP)
    assert len(given.file.by_adapter) == 2

    local = _labelled_on_this_machine(airflow)
    assert _bytes(airflow.home / "artifacts/annotations" / OUT) == _bytes(local)


def _configure(airflow: Airflow, image: str, folder: Path) -> None:
    """Give Airflow two champions of backfilled nights, and headlines to be labelled."""
    write_demo(folder, 1600)
    student = {
        "model_name": "flywheel/demo-small",
        "name": "small",
        "weights": "include/flywheel/demo/students/small",
        "gpus": 0,
    }
    nights = night_config(
        folder,
        nims=[student],
        sizes=[100_000],
        student_prompt="text",
        training_config={"batch_size": 32, "epochs": 3, "learning_rate": 0.005, "validations": 0},
        promotion={"within": 0.99, "min_eval": 1},
        artifacts={"root": str(airflow.home / "artifacts")},
    )
    backfill(nights, NIGHTS)
    write_demo(folder, TEXTS)
    (folder / "headlines.csv").rename(airflow.home / "state/history.csv")
    subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", str(airflow.home / "artifacts")], check=True)
    airflow.configure(
        experiment(
            airflow.namespace,
            image,
            client_id="desk",
            nims=[student],
            source={"path": "state/history.csv", "columns": {"human_label": None}},
        )
    )


def _freeze_in_the_middle(root: ArtifactRoot, spec: ShardSpec, pod: str) -> None:
    """Hold the processes of a shard's pod when one of its two row groups is kept.

    They are stopped by the kernel, and only SIGKILL ends them. The cluster has to be on this machine.
    """
    scratch = Path(root.url) / "scratch/annotation" / key_of(spec.key)
    deadline = time.monotonic() + 300
    while not list(scratch.glob("*.piece")):
        assert time.monotonic() < deadline, f"{pod}: no row group in 300 s"
        time.sleep(0.01)
    signal_pod(pod, signal.SIGSTOP)
    assert len(list(scratch.glob("*.piece"))) == 1


def _labelled_on_this_machine(airflow: Airflow) -> Path:
    """Return the same history as `flywheel annotate` makes it by processes of this machine."""
    config = yaml.safe_load((airflow.home / "config.yaml").read_text())
    config["runtime"] = {"type": "local", "threads": 1}
    config["annotation"]["out"] = str(airflow.home / "state/labelled")
    (airflow.home / "local.yaml").write_text(yaml.safe_dump(config))
    span = [word for name, value in SPAN.items() for word in (f"--{name}", value)]
    print(
        airflow.run("flywheel.cli.main", "annotate", *span, FLYWHEEL_CONFIG=str(airflow.home / "local.yaml"))
    )
    return airflow.home / "state/labelled" / OUT


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
