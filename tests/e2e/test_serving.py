"""The champion answers on a cluster: two replicas of overlay `serving`, asked by their Service from a pod.

A promotion, the eviction of a replica, a roll-back and the sudden death of a replica, all under load.
"""

# ruff: noqa: F811  the wheel that has turned is a fixture of the unit tests
from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import Champion, read_champion
from flywheel.promotion.transitions import decide
from flywheel.runs.run import Run
from flywheel.serving.switching import wait_until_served
from tests.e2e.calling_pods import Pod, job_pod
from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.images import PROJECT
from tests.e2e.cluster.processes import wait_until
from tests.e2e.experiment import Ground, pods, signal_pod
from tests.e2e.installation import USER_ID
from tests.integration.test_serving_drill import backwards, forwards
from tests.unit.champion_endpoint import SIZES, WORKLOAD, folder, whole_of  # noqa: F401
from tests.unit.promoted_desk import SMALL

OVERLAY = "overlays/serving"
NAME = "flywheel-serving"
CALLERS = 6
# From a promotion until both replicas answer with the new champion, whose serving.follow_seconds is 2.
MOST_SECONDS = 10.0
KEY = "fw-test"


class Replicas:
    """What overlay `serving` runs in a namespace of its own.

    Args:
        cluster: where.
        ground: makes namespaces.
        image: of students.
        artifacts: the folder behind the volume.
    """

    def __init__(self, cluster: OwnCluster, ground: Ground, image: str, artifacts: Path) -> None:
        self.cluster, self.root = cluster, ArtifactRoot(str(artifacts))
        self.namespace, _ = ground.make(artifacts)
        connection = json.dumps({"conn_type": "http", "password": KEY})
        literal = f"--from-literal=AIRFLOW_CONN_FLYWHEEL_APP_KEY={connection}"
        self.kubectl("create", "secret", "generic", NAME, literal)
        # The file of the overlay, but for whose champion it is; and a pod that fits this machine twice.
        config = yaml.safe_load((PROJECT / "docker/kubernetes" / OVERLAY / "config.yaml").read_text())
        config |= {"client_id": "desk", "nims": [SMALL]}
        requests = {"cpu": "200m", "memory": "500Mi"}
        name, _, tag = image.rpartition(":")
        ground.apply(
            OVERLAY,
            into=self.namespace,
            files={"config.yaml": yaml.safe_dump(config)},
            images=[{"name": "flywheel-student", "newName": name, "newTag": tag}],
            patches=[{
                "target": {"kind": "Deployment", "name": NAME},
                "patch": json.dumps([{
                    "op": "replace",
                    "path": "/spec/template/spec/containers/0/resources/requests",
                    "value": requests,
                }]),
            }],
        )  # fmt: skip

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in its namespace."""
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def wait(self) -> None:
        """Wait until two are ready, as many as the autoscaler asks for, and one of them may go."""
        allowed = "--for=jsonpath={.status.disruptionsAllowed}=1"
        self.kubectl(
            "wait", "--for=jsonpath={.status.readyReplicas}=2", f"deployment/{NAME}", "--timeout=170s"
        )
        self.kubectl("wait", allowed, f"poddisruptionbudget/{NAME}", "--timeout=60s")

    def addresses(self) -> list[str]:
        """Return the addresses of those that are ready, by the Service whose name has them all."""
        label = f"kubernetes.io/service-name={NAME}-each"
        slices: Any = self.cluster.get("-n", self.namespace, "endpointslices", "-l", label)["items"]
        found = [one for part in slices for one in part.get("endpoints") or ()]
        return [one["addresses"][0] for one in found if one["conditions"]["ready"]]

    def service(self) -> str:
        """Return the one address and port that all of them have."""
        found: Any = self.cluster.get("-n", self.namespace, "service", NAME)
        return f"{found['spec']['clusterIP']}:8700"

    def evict(self, pod: str) -> None:
        """Have a pod go as a node's drain does, which asks the PodDisruptionBudget."""
        order = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(order))

    def decide(self, champion: Champion, back: bool = False) -> tuple[str, str, float]:
        """Put a champion into force, and wait as the task `serve` does until all replicas answer with it.

        Returns:
            The adapter before, the new one, and when it was put into force.
        """
        before = read_champion(self.root, WORKLOAD.id, "desk")
        assert before is not None and before.adapter != champion.adapter
        change = backwards(champion, before.adapter) if back else forwards(champion)
        decide(self.root, WORKLOAD.id, "desk", change, by="pat")
        at = time.time()
        for address in self.addresses():
            wait_until_served(
                f"http://{address}:8700",
                workload=WORKLOAD.id,
                client="desk",
                adapter=champion.adapter,
                seconds=60,
                say=print,
                pause=0.05,
            )
        return before.adapter, champion.adapter, at


@pytest.fixture
def replicas(own_cluster: OwnCluster, ground: Ground, student_image: str, folder: Path) -> Iterator[Replicas]:
    """Give the two replicas, which answer with the champion of the wheel that has turned."""
    own_cluster.carry_services()
    run = Run(ArtifactRoot(str(folder / "artifacts")), "night")
    for size in SIZES:  # both are kept whole before all belongs to the user of Airflow and of pods
        whole_of(run, size)
    subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", run.root.url], check=True)
    made = Replicas(own_cluster, ground, student_image, folder / "artifacts")
    made.wait()
    yield made
    made.kubectl("delete", "hpa,deployment", NAME, "--wait=false")


class Load:
    """Callers in a pod of a namespace that may ask."""

    def __init__(self, pod: Pod, service: str, folder: Path) -> None:
        self._file = (folder / "answers.jsonl").open("w+")
        script = (PROJECT / "tests/e2e/asking.py").read_text()
        command = [str(pod.cluster.program), "kubectl", "--kubeconfig", pod.cluster.kubeconfig]
        command += ["-n", pod.namespace, "exec", "-i", pod.name, "--", "python3", "-c", script]
        self._process = subprocess.Popen(
            [*command, service, KEY, str(CALLERS)], stdin=subprocess.PIPE, stdout=self._file
        )

    def answers(self) -> list[dict[str, Any]]:
        """Return what has come, in order."""
        lines = Path(self._file.name).read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait(self, more: int = 50) -> None:
        """Wait until so many more answers have come."""
        there = len(self.answers())
        wait_until(f"{more} answers more", lambda: len(self.answers()) >= there + more, 60)

    def stop(self) -> None:
        """End it when what is on its way is answered."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._file.close()


@contextmanager
def callers(cluster: OwnCluster, image: str, service: str, folder: Path) -> Iterator[Load]:
    name = f"asks-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "flywheel/asks=true")
    cluster.kubectl("-n", name, "create", "serviceaccount", "flywheel-student")
    pod = Pod(cluster, job_pod(name, image, "caller", app="caller"), 8080)
    pod.address()
    try:
        yield Load(pod, service, folder)
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_champions_change_and_replicas_go_under_load_and_no_request_fails(
    own_cluster: OwnCluster, replicas: Replicas, drill_image: str, folder: Path, tmp_path: Path
) -> None:
    first = read_champion(replicas.root, WORKLOAD.id, "desk")
    assert first is not None
    second = whole_of(Run(replicas.root, "night"), next(size for size in SIZES if size != first.size))
    with callers(own_cluster, drill_image, replicas.service(), tmp_path) as load:
        load.wait()  # a new pod's own rules follow it within a second, and until then it reaches nobody
        settled = len(load.answers())
        changes = [replicas.decide(second)]
        load.wait()

        gone, stays = pods(own_cluster, replicas.namespace)
        replicas.evict(gone.removeprefix("pod/"))
        with pytest.raises(RuntimeError, match="disruption budget"):
            replicas.evict(stays.removeprefix("pod/"))
        replicas.kubectl("wait", "--for=delete", gone, "--timeout=120s")
        replicas.wait()
        load.wait()
        undisturbed = len(load.answers())

        changes.append(replicas.decide(first, back=True))
        load.wait()
        dies = pods(own_cluster, replicas.namespace)[0].removeprefix("pod/")
        signal_pod(dies, signal.SIGKILL)
        restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
        replicas.kubectl("wait", restarted, f"pod/{dies}", "--timeout=60s")
        replicas.wait()
        load.wait()
        load.stop()
    answers = load.answers()
    assert [one for one in answers if one["status"] != 200] == []
    # An eviction breaks no connection; a death breaks those that it had, whose callers ask again.
    assert sum(one["broken"] for one in answers[settled:undisturbed]) == 0
    said: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in answers:
        assert one["said"]["system_fingerprint"] == f"fw_{one['adapter']}"
        said[one["adapter"], one["text"]].add(one["said"]["choices"][0]["message"]["content"])
    assert {adapter for adapter, _ in said} == {first.adapter, second.adapter}
    assert all(len(answers) == 1 for answers in said.values())
    for change in changes:
        _told(answers, *change)
    broken = [one["broken"] for one in answers[undisturbed:] if one["broken"]]
    print(f"{len(answers)} answers, none failed; at the death {len(broken)} were asked for again, {broken}")


def _told(answers: list[dict[str, Any]], before: str, after: str, at: float) -> None:
    """See that a change was over in time: seconds until the first answer by the new adapter, and the last by the old."""
    new = min(one["ended"] for one in answers if one["adapter"] == after and one["ended"] > at)
    old = max(
        one["began"] for one in answers if one["adapter"] == before and one["began"] < new + MOST_SECONDS
    )
    print(f"a new champion answers after {new - at:.2f} s, and alone after {max(new, old) - at:.2f} s")
    assert max(new, old) - at <= MOST_SECONDS
