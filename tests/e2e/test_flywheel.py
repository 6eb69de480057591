"""The whole DAG on a real cluster: a namespace that enforces 'restricted', least rights, PostgreSQL."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import Cluster, OwnCluster
from tests.e2e.cluster.images import PROJECT
from tests.e2e.cluster.objects import KEY, SECRET, URL, ObjectStore
from tests.e2e.cluster.processes import wait_until
from tests.e2e.installation import CONNECTION, USER_ID, Airflow, table

STUDENTS = ("small", "medium", "large")
SIZES = (100, 200, 400)


def experiment(namespace: str, image: str, *, gpus: int = 0, **changes: Any) -> str:
    """Return a config like the shipped one, small enough for a test, with runtime kubernetes."""
    config = yaml.safe_load((PROJECT / "include/config.yaml").read_text())
    for student in config["nims"]:
        student["gpus"] = gpus
    config["sizes"] = list(SIZES)
    config["data_split_config"] |= {"eval_size": 100, "min_total_records": 500}
    config["training_config"] |= {"epochs": 1, "checkpoint_seconds": 1.0}
    config["runtime"] = {
        "type": "kubernetes",
        "threads": 1,
        "parallel": 2,
        "kubernetes": {
            "connection": CONNECTION,
            "namespace": namespace,
            "image": image,
            "requests": {"cpu": "100m", "memory": "400Mi"},
            "limits": {"cpu": "1", "memory": "2Gi"},
            "priority_classes": ["flywheel-large", "flywheel-medium", "flywheel-small"],
            "volume_claim": "flywheel-artifacts",
            "log_seconds": 2,
        },
    }
    for section, values in changes.items():
        merged = config.get(section) or {}
        for key, value in values.items():
            merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
        config[section] = merged
    return yaml.safe_dump(config)


@pytest.fixture(scope="module")
def ground(own_cluster: OwnCluster) -> Iterator[Any]:
    """Give a function that makes a namespace from docker/kubernetes, with a volume for an artifact root."""
    made: list[str] = []

    def make(artifacts: Path) -> tuple[str, Path]:
        name = f"flywheel-e2e-{uuid.uuid4().hex[:6]}"
        made.append(name)
        with tempfile.TemporaryDirectory(dir=PROJECT / "docker") as folder:
            overlay = {"resources": ["../kubernetes/base"], "namespace": name}
            (Path(folder) / "kustomization.yaml").write_text(json.dumps(overlay))
            own_cluster.kubectl("apply", "-k", folder)
        own_cluster.kubectl("apply", "-f", "-", stdin=json.dumps(_volume(name, artifacts)))
        return name, _kubeconfig(own_cluster, name)

    yield make
    for name in made:
        own_cluster.kubectl("delete", "namespace", name, "--wait=false")
        own_cluster.kubectl("delete", "pv", name, "--wait=false")


@pytest.fixture(scope="module")
def airflow(own_cluster: OwnCluster, ground: Any, student_image: str) -> Iterator[Airflow]:
    """Give an Airflow whose jobs run in pods."""
    home = Path(tempfile.mkdtemp(prefix="flywheel-e2e-", dir="/var/tmp"))
    home.chmod(0o755)
    name, kubeconfig = ground(home / "artifacts")
    shutil.move(kubeconfig, home / "kubeconfig")
    started = Airflow(home, str(home / "kubeconfig"))
    started.namespace = name  # type: ignore[attr-defined]
    started.configure(experiment(name, student_image))
    try:
        started.start()
        yield started
    finally:
        started.remove()


def pods(cluster: Cluster, namespace: str) -> list[str]:
    return cluster.kubectl("-n", namespace, "get", "pods", "-o", "name").split()


def test_the_whole_dag_gives_the_table_of_the_local_runtime(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str
) -> None:
    own_cluster.gpus(2)
    namespace = airflow.namespace  # type: ignore[attr-defined]
    airflow.configure(experiment(namespace, student_image, gpus=1))
    began = time.monotonic()
    watch = Watch(own_cluster, namespace)
    airflow.trigger("first")
    state = airflow.wait("first", 1500)
    most, slots = watch.stop(airflow, "first")
    print(
        f"nine candidates: {time.monotonic() - began:.0f} s, at most {most} customizations at once, {slots}"
    )
    failed = [task for task in airflow.tasks("first") if task["state"] not in ("success", "skipped")]
    assert state == "success", [
        (task["task_id"], task["map_index"], task["state"],
         airflow.log("first", task["task_id"], task["map_index"], task["try_number"])[-1500:])
        for task in failed
    ]  # fmt: skip
    report = airflow.report("first")
    assert len(table(report)) == len(STUDENTS) * len(SIZES)
    assert most <= 2
    assert pods(own_cluster, namespace) == []
    log = airflow.log("first", "candidate.customize", 0)
    assert "to a node" in log, log
    print(log)
    assert table(report) == local_table(airflow, student_image)


def test_faults_in_turn_change_nothing_in_the_table_and_leave_no_pod(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str
) -> None:
    """Triggerer and scheduler killed, a pod deleted, API server and kubelet away: the same table."""
    namespace = airflow.namespace  # type: ignore[attr-defined]
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

    victim = wait_until_training(own_cluster, namespace)
    own_cluster.kubectl("-n", namespace, "delete", "pod", victim, "--wait=false")

    airflow.kill_component("scheduler")
    airflow.start_component("scheduler")

    own_cluster.stop("apiserver", 9)
    time.sleep(15)
    own_cluster.start("apiserver")

    own_cluster.stop("kubelet", 9)
    time.sleep(60)
    own_cluster.start("kubelet")

    state = airflow.wait("disturbed", 1500)
    assert state == "success"
    assert table(airflow.report("disturbed")) == table(airflow.report("first"))
    assert pods(own_cluster, namespace) == []
    # victim: fw-customize-large-400-1234abcd
    student, size = victim.split("-")[2:4]
    made = json.loads(
        (airflow.home / f"artifacts/runs/disturbed/jobs/{student}@{size}/customize.json").read_text()
    )
    print(f"{victim}: resumed from step {made['result']['resumed_from_step']} of {made['result']['steps']}")
    assert made["result"]["resumed_from_step"], made["result"]


def test_marking_or_clearing_a_task_deletes_its_pod(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str
) -> None:
    """apache/airflow 62398 and 44014, through the scheduler and the triggerer."""
    namespace = airflow.namespace  # type: ignore[attr-defined]
    own_cluster.gpus(0)  # so that all pods wait
    airflow.configure(experiment(namespace, student_image, gpus=1, data_split_config={"random_seed": 7}))
    airflow.trigger("marked")
    wait_until("nine candidates to wait", lambda: len(pods(own_cluster, namespace)) >= 9, 300)
    deferred = [task for task in airflow.tasks("marked") if task["task_id"] == "candidate.customize"]
    assert {task["state"] for task in deferred} == {"deferred"}
    assert "waiting for a place for 1 nvidia.com/gpu" in airflow.log("marked", "candidate.customize", 0)

    first = pod_of(own_cluster, namespace, 0)
    airflow.patch_task("marked", "candidate.customize", 0, "failed")
    wait_until("the pod to go", lambda: f"pod/{first}" not in pods(own_cluster, namespace), 60)

    before = uid_of(own_cluster, namespace, 1)
    airflow.clear_task("marked", "candidate.customize", 1)
    wait_until("a new pod", lambda: uid_of(own_cluster, namespace, 1) not in ("", before), 90)

    for task in airflow.tasks("marked"):
        if task["state"] == "deferred":
            airflow.patch_task("marked", task["task_id"], task["map_index"], "failed")
    airflow.wait("marked", 300)
    wait_until("all pods to go", lambda: pods(own_cluster, namespace) == [], 60)
    own_cluster.gpus(2)


def test_the_service_account_has_only_what_is_needed(own_cluster: OwnCluster, airflow: Airflow) -> None:
    namespace = airflow.namespace  # type: ignore[attr-defined]

    def rights(account: str) -> list[str]:
        user = f"--as=system:serviceaccount:{namespace}:{account}"
        listed = own_cluster.kubectl("-n", namespace, "auth", "can-i", "--list", user, "--no-headers")
        return [
            line for line in listed.splitlines() if not line.startswith(" ") and "selfsubject" not in line
        ]

    print("\n".join(rights("flywheel-airflow")))
    assert len(rights("flywheel-airflow")) == 3
    assert rights("flywheel-student") == []


def test_artifacts_on_s3_give_the_same_table(
    own_cluster: OwnCluster, airflow: Airflow, student_image: str
) -> None:
    import s3fs

    namespace = airflow.namespace  # type: ignore[attr-defined]
    store = ObjectStore(own_cluster, airflow.home / "objects")
    store.start("bucket")
    literals = [f"--from-literal={name}={value}" for name, value in store.environment.items()]
    own_cluster.kubectl("-n", namespace, "create", "secret", "generic", "flywheel-s3", *literals)
    for name in ("scheduler", "dag-processor", "triggerer"):  # with the credentials
        airflow.processes.stop(name)
    airflow.environment |= store.environment
    airflow.configure(
        experiment(
            namespace,
            student_image,
            artifacts={"root": "s3://bucket/flywheel"},
            runtime={"kubernetes": {"volume_claim": None, "secrets": ["flywheel-s3"]}},
        )
    )
    try:
        for name in ("scheduler", "dag-processor", "triggerer"):
            airflow.start_component(name)
        airflow.trigger("remote")
        assert airflow.wait("remote", 1500) == "success"
        files = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=URL)
        report = json.loads(files.cat_file("bucket/flywheel/runs/remote/report.json"))
        assert table(report) == table(airflow.report("first"))
        assert pods(own_cluster, namespace) == []
    finally:
        store.stop()


def running(cluster: Cluster, namespace: str, component: str) -> list[str]:
    """Return the names of the pods of a stage that run."""
    found = cluster.get("-n", namespace, "pods", "-l", f"app.kubernetes.io/component={component}")
    return [item["metadata"]["name"] for item in found["items"] if item["status"].get("phase") == "Running"]


def wait_until_training(cluster: Cluster, namespace: str) -> str:
    """Return the name of a pod whose training has taken some steps."""
    found: list[str] = []

    def look() -> bool:
        for name in running(cluster, namespace, "customize"):
            log = cluster.kubectl("-n", namespace, "logs", name, check=False)
            if "checkpoint" in log or "step" in log:
                found.append(name)
        return bool(found)

    wait_until("a training", look, 300)
    time.sleep(1)
    return found[0]


def pod_of(cluster: Cluster, namespace: str, index: int) -> str:
    """Return the name of the pod of a candidate's customization."""
    chosen = f"map_index={index},app.kubernetes.io/component=customize"
    items = cluster.get("-n", namespace, "pods", "-l", chosen)["items"]
    return items[0]["metadata"]["name"] if items else ""


def uid_of(cluster: Cluster, namespace: str, index: int) -> str:
    """Return the uid of that pod; empty where there is none, or it is going."""
    chosen = f"map_index={index},app.kubernetes.io/component=customize"
    items = cluster.get("-n", namespace, "pods", "-l", chosen)["items"]
    live = [item["metadata"]["uid"] for item in items if "deletionTimestamp" not in item["metadata"]]
    return live[0] if live else ""


def local_table(airflow: Airflow, student_image: str) -> dict[tuple[str, int], float]:
    """Return the table of the same experiment, every stage by hand in processes of this machine."""
    namespace = airflow.namespace  # type: ignore[attr-defined]
    changed = yaml.safe_load(experiment(namespace, student_image, gpus=1))
    changed["runtime"]["type"] = "local"
    changed["artifacts"] = {"root": "artifacts-local"}
    config = airflow.home / "local.yaml"
    config.write_text(yaml.safe_dump(changed))
    airflow.environment |= {"FLYWHEEL_CONFIG": str(config), "FLYWHEEL_THREADS": "1", "OMP_NUM_THREADS": "1"}
    (airflow.home / "artifacts-local").mkdir()
    shutil.chown(airflow.home / "artifacts-local", USER_ID, USER_ID)
    cutoff = json.loads((airflow.home / "artifacts/runs/first/plan.json").read_text())["cutoff"]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(cutoff))
    airflow.run("flywheel.cli", "plan", "local", "--cutoff", stamp)
    for stage in ("label", "ingest", "curate", "jobs", "score"):
        airflow.run("flywheel.cli", stage, "local")
    airflow.environment["FLYWHEEL_CONFIG"] = str(airflow.home / "config.yaml")
    return table(json.loads((airflow.home / "artifacts-local/runs/local/report.json").read_text()))


class Watch:
    """Follows the pods of a namespace from the side, through kubectl, and says how many ran at once."""

    def __init__(self, cluster: OwnCluster, namespace: str) -> None:
        command = [str(cluster.program), "kubectl", "--kubeconfig", cluster.kubeconfig, "-n", namespace]
        command += ["get", "pods", "--watch", "-l", "app.kubernetes.io/component=customize", "--no-headers"]
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen([*command, "-o", "name"], stdout=subprocess.DEVNULL)
        self._process.kill()
        columns = "custom-columns=N:.metadata.name,P:.status.phase"
        self._process = subprocess.Popen([*command, "-o", columns], stdout=self._file)

    def stop(self, airflow: Airflow, run_id: str) -> tuple[int, str]:
        """Return the most pods that were in phase Running together, and how the tasks waited."""
        self._process.terminate()
        self._process.wait()
        self._file.seek(0)
        running: set[str] = set()
        most = 0
        for line in self._file:
            name, phase = line.split()[:2]
            running = running | {name} if phase == "Running" else running - {name}
            most = max(most, len(running))
        return most, f"{len(airflow.tasks(run_id))} tasks"


def _volume(name: str, artifacts: Path) -> dict[str, Any]:
    modes = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {**modes, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(artifacts)},
                 "claimRef": {"namespace": name, "name": "flywheel-artifacts"}},
    }  # fmt: skip
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "flywheel-artifacts", "namespace": name},
        "spec": {**modes, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "List", "items": [volume, claim]}


def _kubeconfig(cluster: OwnCluster, namespace: str) -> Path:
    """Return a kubeconfig with the token of the service account of Airflow."""
    token = cluster.kubectl("-n", namespace, "create", "token", "flywheel-airflow", "--duration=12h").strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    path = Path(tempfile.mkstemp(suffix=".json")[1])
    path.write_text(json.dumps(config))
    path.chmod(0o644)
    return path
