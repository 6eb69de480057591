"""A real API server of Airflow with the plugin in it, users of every role, and runs that have ended.

There is no scheduler: the runs are rows of Airflow's database and files of the artifact root, as a finished
run leaves them. What needs tasks that run is tested with `airflow_stack`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import yaml

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import load_config
from flywheel.laptop import home
from flywheel.laptop.processes import free_port
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from tests.unit.finished_run import MEASURED, TABLE_1, WORKLOAD, finish, plan_of

PROJECT = Path(__file__).parents[2]
NIGHTS = ("night-0", "night-1", "night-2")
USERS = {"admin": "admin", "vera": "viewer", "uma": "user", "otto": "op"}


@contextmanager
def environment_of(folder: Path) -> Iterator[None]:
    """Make a folder the project's home for the code of this process."""
    changed = {"FLYWHEEL_HOME": str(folder), "FLYWHEEL_CONFIG": str(folder / "config.yaml")}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def make_project(folder: Path, **sections: Any) -> Path:
    """Make a project folder that shares this one's code, with three students and three sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dags", "plugins", "include"):
        (folder / name).symlink_to(PROJECT / name)
    config = {
        "client_id": "desk",
        "workload": WORKLOAD,
        "sizes": [5, 10, 25],
        "nims": [
            {"model_name": f"meta/llama-{name}", "name": name, "gpus": 0} for name in ("1b", "3b", "8b")
        ],
        "artifacts": {"root": "artifacts"},
        "api": {"reads_per_minute": 10**6, "writes_per_minute": 10**6},
        "mlflow_config": {
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "artifact_location": f"{folder}/mlruns",
        },
        **sections,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


class WebServer:
    """A running API server.

    Args:
        folder: made by `make_project`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with environment_of(folder):
            home.prepare()
            port = free_port(28080)
            home.write_settings(home.Ports(ui=port, tasks=free_port()))
            self.environment = {
                **home.environment(),
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{a}:{b}" for a, b in USERS.items()),
            }
            self._passwords = home._passwords_file()
        self.url = f"http://127.0.0.1:{port}"
        self.api = f"{self.url}/flywheel/api"
        self.log = folder / "api-server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[httpx.Client] = []
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        port = self.url.rsplit(":", 1)[-1]
        command = ["-m", "airflow", "api-server", "--apps", "core", "--host", "127.0.0.1", "--port", port]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/api/v2/version", trust_env=False).status_code == 200:
                    return
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server."""
        for client in self._clients:
            client.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def token(self, user: str) -> str:
        """Return a token of a user."""
        password = json.loads(self._passwords.read_text())[user]
        body = {"username": user, "password": password}
        answer = httpx.post(f"{self.url}/auth/token", json=body, trust_env=False, timeout=30)
        answer.raise_for_status()
        token: str = answer.json()["access_token"]
        return token

    def client(self, user: str | None = "admin") -> httpx.Client:
        """Return a client of the flywheel's API, with a user's token or with none."""
        headers = {"Authorization": f"Bearer {self.token(user)}"} if user else {}
        client = httpx.Client(base_url=self.api, headers=headers, timeout=60, trust_env=False)
        self._clients.append(client)
        return client

    def seed(self, runs: list[dict[str, Any]]) -> None:
        """Write runs into Airflow's database."""
        file = self.folder / "seed.json"
        file.write_text(json.dumps(runs))
        self.in_airflow("tests.integration.seed_runs", str(file))

    def in_airflow(self, *arguments: str) -> str:
        """Run a module of the tests with this Airflow's database."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            env=self.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def furnish(server: WebServer) -> None:
    """Give a server three nights that have ended, a run that failed, one that goes on and one that waits."""
    with environment_of(server.folder):
        config = load_config(server.folder / "config.yaml")
        promotion = config.promotion.model_copy(update={"within": 0.101})
        config = config.model_copy(update={"promotion": promotion})
        for number, name in enumerate(NIGHTS):
            run = finish(plan_of(config, name, day=2 + number, client_id="desk"), data_seed=number)
            with mock.patch("flywheel.stages.score.add_doubts"):  # each night has a champion, for its history
                wheel.score(run)
            wheel.promote(run)
            publish_predictions(run)
        hopeless = dict.fromkeys(TABLE_1, "no weights at /models/secret-place")
        finish(plan_of(config, "broken", client_id="desk"), f1={("1b", 999): 0.0}, failed=hopeless)
        going = finish(plan_of(config, "going", client_id="desk"), f1={("1b", 5): 0.29, ("8b", 25): 0.95})
        progress = {
            "step": 6,
            "steps": 12,
            "loss": 0.5,
            "val_loss": None,
            "records_per_second": 100.0,
            "seconds_left": 4.0,
            "losses": [{"step": 3, "loss": 1.5, "val_loss": None}, {"step": 6, "loss": 0.5, "val_loss": 0.6}],
        }
        going.root.write_json(f"{going.path}/jobs/3b@5/customize.progress.json", progress)
    states = dict.fromkeys(NIGHTS, "success") | {"broken": "failed", "going": "running", "waiting": "queued"}
    server.seed(
        [
            {"run_id": name, "state": state, "minutes_ago": 100 - index}
            for index, (name, state) in enumerate(states.items())
        ]
    )


def publish_predictions(run: Run) -> None:
    """Publish the evaluations of a run's jobs, with answers of which every fourth is wrong."""
    for folder in run.root.list(f"{run.path}/jobs"):
        for name in ("evaluate", "base_eval"):
            path = f"{run.path}/jobs/{folder}/{name}.json"
            if run.root.exists(path):
                _publish_evaluation(run.root, run.root.read_json(path)["result"])


def _publish_evaluation(root: ArtifactRoot, result: dict[str, Any]) -> None:
    if root.find("evaluations", result["key"]):
        return
    lines = []
    for number in range(result["records"] // MEASURED):
        teacher = ("Earnings", "Dividends", "Guidance")[number % 3]
        student = teacher if number % 4 else ("OTHER", "")[number % 8 == 0]
        line = {
            "id": f"{number:032x}",
            "text": f"Headline {number} <b>of Acme</b>",
            "teacher": teacher,
            "student": student,
            "answer": f"[[[{student.lower()}]]]",
        }
        lines.append(json.dumps(line))
    with root.build("evaluations", result["key"]) as folder:
        (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "result.json").write_text(json.dumps(result))


def clone_runs(server: WebServer, like: str, count: int) -> None:
    """Add runs that found out what another did: their plan and report, without their jobs."""
    root = ArtifactRoot(str(server.folder / "artifacts"))
    plan, report = (root.read_json(f"runs/{like}/{name}") for name in ("plan.json", "report.json"))
    for number in range(count):
        name = f"clone-{number:05d}"
        folder = server.folder / "artifacts" / "runs" / name
        folder.mkdir()
        (folder / "plan.json").write_text(json.dumps({**plan, "run_id": name}))
        (folder / "report.json").write_text(json.dumps({**report, "run_id": name}))
    server.seed(
        [
            {"run_id": f"clone-{number:05d}", "state": "success", "minutes_ago": 200 + number}
            for number in range(count)
        ]
    )
