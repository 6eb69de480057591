"""An Airflow as in production, for tests: PostgreSQL, LocalExecutor, every component a process of its own.

It runs as the user that job pods run as, and reaches the cluster with the rights of the service account of
docker/kubernetes/base alone.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tests.e2e.cluster.images import PROJECT
from tests.e2e.cluster.processes import Processes, wait_until

USER_ID = 10001  # of docker/student.Dockerfile
CONNECTION = "flywheel_cluster"
COMPONENTS = {
    "api-server": ("api-server", "--workers", "1", "--port", "{api}"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


class Airflow:
    """One installation of Airflow with flywheel's DAG.

    Args:
        home: its folder: project, state, artifacts, database; made when it is not there.
        kubeconfig: of the cluster, as the triggerer sees it.
        environment: further variables of all components.
    """

    def __init__(self, home: Path, kubeconfig: str, environment: dict[str, str] | None = None) -> None:
        self.home = home
        for folder in ("airflow", "artifacts", "state/demo"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        for name in ("include", "dags", "plugins"):
            if (PROJECT / name).exists() and not (home / name).exists():
                (home / name).symlink_to(PROJECT / name)
        self.processes = Processes(home / "processes")
        self.ports = {name: _free_port() for name in ("api", "postgres", "teacher")}
        database = f"127.0.0.1:{self.ports['postgres']}/postgres"
        connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": kubeconfig}}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FLYWHEEL"))
        } | {
            "HOME": str(home),
            "USER": "flywheel",
            "LOGNAME": "flywheel",
            "PYTHONPATH": str(PROJECT / "include"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "FLYWHEEL_HOME": str(home),
            "FLYWHEEL_CONFIG": str(home / "config.yaml"),
            "FLYWHEEL_TEACHER_BASE_URL": f"http://127.0.0.1:{self.ports['teacher']}/v1",
            "FLYWHEEL_TEACHER_API_KEY": "none",
            "AIRFLOW_HOME": str(home / "airflow"),
            f"AIRFLOW_CONN_{CONNECTION.upper()}": json.dumps(connection),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "16",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.ports['api']}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://postgres@{database}",
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{self.ports['api']}",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **(environment or {}),
        }
        self._api = httpx.Client(
            base_url=f"http://127.0.0.1:{self.ports['api']}", timeout=30, trust_env=False
        )

    # -- life ----------------------------------------------------------------------------------------

    def configure(self, text: str) -> None:
        """Write the config file."""
        (self.home / "config.yaml").write_text(text)

    def start(self) -> None:
        """Start the database, the teacher and all components; return when the DAG can run."""
        subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", str(self.home)], check=True)
        self._start_postgres()
        self.run("airflow", "db", "migrate")
        self.run("flywheel.cli", "headlines", "state/demo/headlines.csv", "--count", "3000")
        self.start_teacher()
        for name in COMPONENTS:
            self.start_component(name)
        wait_until("the API server", self._is_up, 180)
        wait_until("the DAG", lambda: self._get("/api/v2/dags/flywheel").get("is_paused") is False, 180)

    def stop(self) -> None:
        """Stop all."""
        for name in (*COMPONENTS, "teacher", "postgres"):
            self.processes.stop(name, patience=20)

    def remove(self) -> None:
        """Stop all and delete the folder."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def start_component(self, name: str) -> None:
        """Start one component."""
        arguments = [part.format(**self.ports) for part in COMPONENTS[name]]
        self.processes.start(name, self._as_user("-m", "airflow", *arguments), env=self.environment)

    def kill_component(self, name: str) -> None:
        """Kill a component with signal 9, as when its machine is gone."""
        self.processes.stop(name, 9)

    def start_teacher(self) -> None:
        """Start the stand-in teacher."""
        port = str(self.ports["teacher"])
        command = self._as_user("-m", "flywheel.cli", "stand-in-teacher", "--port", port)
        command += ["--answers", str(self.home / "state/demo/headlines.csv")]
        self.processes.start("teacher", command, env=self.environment)

    def run(self, module: str, *arguments: str) -> str:
        """Run a module of Python as the user of Airflow, in its environment, and return what it prints."""
        done = subprocess.run(
            self._as_user("-m", module, *arguments),
            env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{module} {' '.join(arguments)}: {(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    def _as_user(self, *arguments: str) -> list[str]:
        identity = ["setpriv", "--reuid", str(USER_ID), "--regid", str(USER_ID), "--clear-groups"]
        return [*identity, sys.executable, *arguments]

    def _start_postgres(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        data = self.home / "postgres"
        if not data.exists():
            data.mkdir()
            shutil.chown(data, "postgres", "postgres")
            identity = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
            command = [*identity, f"{programs[-1]}/initdb", "-D", str(data), "--auth", "trust", "-E", "UTF8"]
            subprocess.run(command, check=True, capture_output=True)
        port = str(self.ports["postgres"])
        command = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        command += [
            f"{programs[-1]}/postgres",
            "-D",
            str(data),
            "-p",
            port,
            "-h",
            "127.0.0.1",
            "-k",
            str(data),
        ]
        command += ["-c", "fsync=off", "-c", "max_connections=200"]
        self.processes.start("postgres", command)
        ready = [f"{programs[-1]}/pg_isready", "-h", "127.0.0.1", "-p", port]
        wait_until("PostgreSQL", lambda: subprocess.run(ready, capture_output=True).returncode == 0, 60)

    # -- runs ----------------------------------------------------------------------------------------

    def trigger(self, run_id: str, **params: Any) -> None:
        """Ask for a run of the DAG."""
        body = {"dag_run_id": run_id, "logical_date": datetime.now(UTC).isoformat(), "conf": params}
        answer = self._api.post("/api/v2/dags/flywheel/dagRuns", json=body, headers=self._login())
        answer.raise_for_status()

    def state(self, run_id: str) -> str:
        """Return the state of a run."""
        return str(self._get(f"/api/v2/dags/flywheel/dagRuns/{quote(run_id)}").get("state"))

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        found: list[dict[str, Any]] = []
        while True:
            path = (
                f"/api/v2/dags/flywheel/dagRuns/{quote(run_id)}/taskInstances?limit=100&offset={len(found)}"
            )
            answer = self._get(path)
            found += answer.get("task_instances", [])
            if len(found) >= answer.get("total_entries", 0):
                return found

    def wait(self, run_id: str, seconds: float) -> str:
        """Wait for the end of a run and return its state."""
        wait_until(f"run {run_id}", lambda: self.state(run_id) in ("success", "failed"), seconds)
        return self.state(run_id)

    def log(self, run_id: str, task_id: str, map_index: int = -1, attempt: int = 1) -> str:
        """Return the log of a try of a task, as the UI shows it."""
        path = f"/api/v2/dags/flywheel/dagRuns/{quote(run_id)}/taskInstances/{task_id}/logs/{attempt}"
        answer = self._get(f"{path}?map_index={map_index}&full_content=true")
        lines = answer.get("content", [])
        return "\n".join(line.get("event", "") if isinstance(line, dict) else str(line) for line in lines)

    def patch_task(self, run_id: str, task_id: str, map_index: int, state: str) -> None:
        """Mark a task, as a person does in the UI."""
        path = f"/api/v2/dags/flywheel/dagRuns/{quote(run_id)}/taskInstances/{task_id}/{map_index}"
        answer = self._api.patch(path, json={"new_state": state}, headers=self._login())
        answer.raise_for_status()

    def clear_task(self, run_id: str, task_id: str, map_index: int) -> None:
        """Clear a task, as a person does in the UI."""
        body = {
            "dag_run_id": run_id,
            "task_ids": [[task_id, map_index]],
            "dry_run": False,
            "only_failed": False,
        }
        answer = self._api.post("/api/v2/dags/flywheel/clearTaskInstances", json=body, headers=self._login())
        answer.raise_for_status()

    def report(self, run_id: str) -> dict[str, Any]:
        """Return report.json of a run whose artifact root is the folder."""
        found: dict[str, Any] = json.loads(
            (self.home / "artifacts/runs" / run_id / "report.json").read_text()
        )
        return found

    def _get(self, path: str) -> dict[str, Any]:
        try:
            answer = self._api.get(path, headers=self._login())
            answer.raise_for_status()
        except httpx.HTTPError:
            return {}
        return dict(answer.json())

    def _is_up(self) -> bool:
        try:
            return self._api.get("/api/v2/version").status_code == 200
        except httpx.HTTPError:
            return False

    def _login(self) -> dict[str, str]:
        if not hasattr(self, "_token") or time.monotonic() - self._token[1] > 600:
            token = self._api.get("/auth/token").json()["access_token"]
            self._token = (token, time.monotonic())
        return {"Authorization": f"Bearer {self._token[0]}"}


def table(report: dict[str, Any]) -> dict[tuple[str, int], float]:
    """Return the F1 of each candidate."""
    return {(row["student"], row["size"]): row["f1_weighted"] for row in report["candidates"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
