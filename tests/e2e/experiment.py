"""The experiment of the tests on a cluster, where it runs, and what is seen of its pods from the side."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster import Cluster, OwnCluster
from tests.e2e.cluster.images import PROJECT
from tests.e2e.cluster.objects import ObjectStore
from tests.e2e.cluster.processes import wait_until
from tests.e2e.installation import CONNECTION, Airflow

ADMIN = "flywheel_admin"  # the connection of the drills
STUDENTS = ("small", "medium", "large")
SIZES = (100, 200, 400)
# Where Airflow's user can look, too.
HOMES, HOME_PREFIX = Path("/var/tmp"), "flywheel-e2e-"


def experiment(namespace: str, image: str, *, gpus: int = 0, **changes: Any) -> str:
    """Return a config like the shipped one, small enough for a test, with runtime kubernetes."""
    config = yaml.safe_load((PROJECT / "include/config.yaml").read_text())
    for student in config["nims"]:
        student["gpus"] = gpus
    config["sizes"] = list(SIZES)
    config["data_split_config"] |= {"eval_size": 100, "min_total_records": 500}
    config["promotion"] |= {"min_eval": 1}
    config["annotation"] = {"cron": None}  # so that there is its DAG
    config["training_config"] |= {"epochs": 1, "min_steps": 6, "checkpoint_seconds": 1.0}
    config["runtime"] = {
        "type": "kubernetes",
        "threads": 1,
        "parallel": 2,
        "kubernetes": {
            "connection": CONNECTION,
            "namespace": namespace,
            "image": image,
            "requests": {"cpu": "500m", "memory": "400Mi"},
            "limits": {"cpu": "1", "memory": "2Gi"},
            "priority_classes": ["flywheel-large", "flywheel-medium", "flywheel-small"],
            "volume_claim": "flywheel-artifacts",
            "log_seconds": 2,
        },
    }
    for section, values in changes.items():
        if not isinstance(values, dict):
            config[section] = values
            continue
        merged = config.get(section) or {}
        for key, value in values.items():
            merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
        config[section] = merged
    return yaml.safe_dump(config)


class Ground:
    """Namespaces as docker/kubernetes makes them."""

    def __init__(self, cluster: OwnCluster) -> None:
        self.cluster = cluster
        self.made: list[str] = []

    def make(self, artifacts: Path) -> tuple[str, str]:
        """Make one of the base, with a volume for an artifact root.

        Returns:
            Its name, and the kubeconfig of Airflow's service account in it.
        """
        name = self.apply("base")
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(_volume(name, artifacts)))
        return name, self._kubeconfig(name)

    def apply(
        self, part: str, into: str = "", files: Mapping[str, str] | None = None, **kustomization: Any
    ) -> str:
        """Make what a folder of docker/kubernetes has, such as overlays/s3, and return the namespace's name.

        Args:
            part: the folder.
            into: a namespace that is there; else a new one.
            files: of that folder, that an operator writes anew.
            kustomization: what else an operator's own overlay says.
        """
        name = into or f"flywheel-e2e-{uuid.uuid4().hex[:6]}"
        if not into:
            self.made.append(name)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(PROJECT / "docker/kubernetes", folder, dirs_exist_ok=True)
            for path, text in (files or {}).items():
                Path(folder, part, path).write_text(text)
            overlay = Path(folder, "overlays/test")
            overlay.mkdir()
            content = {"resources": [f"../../{part}"], "namespace": name, **kustomization}
            (overlay / "kustomization.yaml").write_text(json.dumps(content))
            self.cluster.kubectl("apply", "-k", str(overlay))
        return name

    def remove(self) -> None:
        """Delete all."""
        for name in self.made:
            self.cluster.kubectl("delete", "namespace", name, "--wait=false")
            self.cluster.kubectl("delete", "pv", name, "--wait=false", "--ignore-not-found")

    def _kubeconfig(self, namespace: str) -> str:
        token = self.cluster.kubectl("-n", namespace, "create", "token", "flywheel-airflow", "--duration=12h")
        config = json.loads(self.cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
        config["users"][0]["user"] = {"token": token.strip()}
        return json.dumps(config)


@contextmanager
def open_airflow(
    cluster: OwnCluster, ground: Ground, drill_image: str, candidates: int, slots: int = 4
) -> Iterator[Airflow]:
    """Start an Airflow whose jobs run in pods; DAGs are flywheel's and those of tests/e2e/dags.

    Args:
        cluster: where.
        ground: makes its namespaces.
        drill_image: of the drills' pods.
        candidates: of the scale drill.
        slots: tasks that may hold a worker at once.
    """
    # Whoever has the cluster is the only one here: what is there already was left by tests that were killed.
    Airflow.remove_abandoned(HOMES.glob(f"{HOME_PREFIX}*"))
    home = Path(tempfile.mkdtemp(prefix=HOME_PREFIX, dir=HOMES))
    home.chmod(0o755)
    namespace, kubeconfig = ground.make(home / "artifacts")
    drills, _ = ground.make(home / "drills")
    flat = cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json")
    (home / "admin.json").write_text(flat)
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(home / "admin.json")}}
    store = ObjectStore(cluster, home / "objects")
    started = Airflow(
        home,
        namespace,
        kubeconfig,
        drills,
        {
            f"AIRFLOW_CONN_{ADMIN.upper()}": json.dumps(connection),
            "AIRFLOW__CORE__PARALLELISM": str(slots),
            **store.environment,
        },
    )
    settings = {
        "connection": ADMIN, "namespace": drills, "image": drill_image, "log_seconds": 5,
        "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"},
        "volume_claim": "flywheel-artifacts",
    }  # fmt: skip
    (home / "drills.json").write_text(json.dumps({"pods": settings, "candidates": candidates}))
    started.configure(experiment(namespace, "none"))
    try:
        started.start()
        yield started
    finally:
        started.remove()


@dataclass(frozen=True)
class FirstRun:
    """How the run `first` went: nine candidates on two GPUs, artifacts on a volume.

    Attributes:
        at_once: most customization pods that ran together.
        deferred: most customization tasks that waited without a worker slot.
        working: most of them that held one.
    """

    state: str
    seconds: float
    at_once: int
    deferred: int
    working: int


def run_first(cluster: OwnCluster, airflow: Airflow, image: str) -> FirstRun:
    """Turn the wheel once and look on."""
    cluster.gpus(2)
    airflow.configure(experiment(airflow.namespace, image, gpus=1))
    began = time.monotonic()
    watch = Watch(cluster, airflow.namespace)
    airflow.trigger("first")
    deferred, working = 0, 0
    while airflow.state("first") not in ("success", "failed"):
        states = [task["state"] for task in airflow.tasks("first") if "customize" in task["task_id"]]
        deferred, working = max(deferred, states.count("deferred")), max(working, states.count("running"))
        if time.monotonic() - began > 1500:
            raise TimeoutError("run first: not in 1500 s")
        time.sleep(2)
    seconds = round(time.monotonic() - began)
    return FirstRun(airflow.state("first"), seconds, watch.stop(), deferred, working)


def run_locally(airflow: Airflow, run_id: str, **params: Any) -> str:
    """Turn the wheel with jobs as processes of this machine, from a root of its own; return the run's state."""
    pods = (airflow.home / "config.yaml").read_text()
    local = yaml.safe_load(pods)
    local["runtime"]["type"] = "local"
    local["artifacts"] = {"root": "artifacts-local"}
    airflow.configure(yaml.safe_dump(local))
    try:
        wait_until("the DAG of runtime local", lambda: airflow.job_operator() == "ProcessOperator", 120)
        airflow.trigger(run_id, **params)
        return airflow.wait(run_id, 600)
    finally:
        airflow.configure(pods)
        wait_until("the DAG of pods", lambda: airflow.job_operator() == "KubernetesPodOperator", 120)


class Watch:
    """Follows the pods of a stage from the side, by the events of the cluster's watch.

    Args:
        cluster: whose.
        namespace: where.
        component: the stage.
    """

    def __init__(self, cluster: OwnCluster, namespace: str, component: str = "customize") -> None:
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115
        columns = "custom-columns=N:.metadata.name,P:.status.phase,D:.metadata.deletionTimestamp"
        command = [str(cluster.program), "kubectl", "--kubeconfig", cluster.kubeconfig, "-n", namespace]
        command += ["get", "pods", "--watch", "-l", f"app.kubernetes.io/component={component}"]
        self._process = subprocess.Popen([*command, "--no-headers", "-o", columns], stdout=self._file)

    def stop(self) -> int:
        """Return the most pods that were in phase Running together."""
        self._process.terminate()
        self._process.wait()
        self._file.seek(0)
        running: set[str] = set()
        most = 0
        for line in self._file:
            name, phase, _ = line.split()
            running = running | {name} if phase == "Running" else running - {name}
            most = max(most, len(running))
        return most


def pods(cluster: Cluster, namespace: str) -> list[str]:
    """Return the names of all pods of a namespace."""
    return cluster.kubectl("-n", namespace, "get", "pods", "-o", "name").split()


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
            if "step" in log:
                found.append(name)
        return bool(found)

    wait_until("a training", look, 300)
    time.sleep(1)
    return found[0]


def freeze_in_training(cluster: Cluster, namespace: str) -> str:
    """Return the name of a pod that is held in its training: it has a checkpoint, and two steps or more to go.

    Its processes are stopped by the kernel, so that however fast the machine is, none goes on; only SIGKILL
    ends them. The cluster has to be on this machine.
    """
    held: list[str] = []

    def look() -> bool:
        for name in running(cluster, namespace, "customize"):
            if not _has_steps_to_go(cluster, namespace, name):
                continue
            signal_pod(name, signal.SIGSTOP)
            if _has_steps_to_go(cluster, namespace, name):  # asked again, now that it stands still
                held.append(name)
                return True
            signal_pod(name, signal.SIGCONT)
        return False

    wait_until("a training with a checkpoint and steps to go", look, 300)
    return held[0]


def _has_steps_to_go(cluster: Cluster, namespace: str, pod: str) -> bool:
    log = cluster.kubectl("-n", namespace, "logs", pod, check=False)
    steps = re.findall(r"checkpoint after step (\d+) of (\d+)", log)
    return bool(steps) and int(steps[-1][1]) - int(steps[-1][0]) >= 2


def signal_pod(pod: str, number: signal.Signals) -> None:
    """Send a signal to the processes of a pod, which the container's variable HOSTNAME names."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile
            if f"HOSTNAME={pod}".encode() in file.read_bytes().split(b"\0"):
                os.kill(int(file.parent.name), number)


def live_pod(cluster: Cluster, namespace: str, selector: str) -> dict[str, Any]:
    """Return the pod with these labels that is not being deleted; {} where there is none."""
    items = cluster.get("-n", namespace, "pods", "-l", selector)["items"]
    live = [item for item in items if "deletionTimestamp" not in item["metadata"]]
    return dict(live[0]) if live else {}


def uid_of(cluster: Cluster, namespace: str, selector: str) -> str:
    """Return the uid of that pod; empty where there is none."""
    found = live_pod(cluster, namespace, selector)
    return str(found["metadata"]["uid"]) if found else ""


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
