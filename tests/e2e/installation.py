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
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tests.e2e.cluster.images import PROJECT
from tests.e2e.cluster.processes import Processes, end_all, end_all_with, wait_until
from tests.e2e.cluster.programs import POSTGRES_PACKAGES, install_packages

USER_ID = 10001  # of docker/student.Dockerfile
CONNECTION = "flywheel_cluster"
DAG = "flywheel"
COMPONENTS = {
    "api-server": ("api-server", "--host", "127.0.0.1", "--workers", "1", "--port", "{api}"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


class Airflow:
    """One installation of Airflow with flywheel's DAG.

    Args:
        home: its folder: project, state, artifacts, database; made when it is not there.
        namespace: of its jobs; the pods of drills are in one of their own.
        kubeconfig: of the cluster, as the triggerer sees it.
        environment: further variables of all components.
    """

    def __init__(
        self, home: Path, namespace: str, kubeconfig: str, drills: str, environment: dict[str, str]
    ) -> None:
        self.home = home
        self.namespace = namespace
        self.drills = drills
        for folder in ("airflow", "artifacts", "drills", "state/demo"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "include").symlink_to(PROJECT / "include")
        (home / "dags").mkdir()
        dags = [PROJECT / "dags" / name for name in ("flywheel.py", "flywheel_annotate.py")]
        for dag in (*dags, *sorted((PROJECT / "tests/e2e/dags").glob("*.py"))):
            (home / "dags" / dag.name).symlink_to(dag)
        self.processes = Processes(home / "processes")
        self.ports = {name: _free_port() for name in ("api", "postgres", "teacher")}
        database = f"127.0.0.1:{self.ports['postgres']}/postgres"
        (home / "kubeconfig").write_text(kubeconfig)
        connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(home / "kubeconfig")}}
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
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
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
            "AIRFLOW__TRIGGERER__CAPACITY": "1000",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",  # the first request of a busy machine takes long
            "AIRFLOW__API_AUTH__JWT_EXPIRATION_TIME": "86400",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **environment,
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
        self.run("flywheel.cli.main", "headlines", "state/demo/headlines.csv", "--count", "1200")
        self.start_teacher()
        for name in COMPONENTS:
            self.start_component(name)
        wait_until("the API server", self._is_up, 180)
        for dag in (DAG, "scale"):
            wait_until(
                f"DAG {dag}", lambda dag=dag: self._get(f"/api/v2/dags/{dag}").get("is_paused") is False, 180
            )

    def stop(self) -> None:
        """Stop all, with what those have left that were killed."""
        for name in (*COMPONENTS, "teacher"):
            self.processes.stop(name, patience=20)
        end_all_with("FLYWHEEL_HOME", str(self.home))
        self.processes.stop("postgres", patience=20)

    def remove(self) -> None:
        """Stop all and delete the folder."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    @staticmethod
    def remove_abandoned(homes: Iterable[Path]) -> None:
        """End what tests have left that were killed, whoever started it, and delete their folders."""
        for home in homes:
            end_all_with("FLYWHEEL_HOME", str(home))
            end_all(f"{home}/postgres")
            shutil.rmtree(home, ignore_errors=True)

    def start_component(self, name: str) -> None:
        """Start one component."""
        arguments = [part.format(**self.ports) for part in COMPONENTS[name]]
        self.processes.start(name, self._as_user("-m", "airflow", *arguments), env=self.environment)

    def kill_component(self, name: str) -> None:
        """Kill a component with signal 9, its workers with it, as when its container or machine is gone.

        A scheduler that is killed alone leaves idle workers behind, forks of it that hold its connection to the
        database open, and with that the locks of the transaction it was in: no other scheduler takes up the run.
        """
        self.processes.kill(name)

    def start_teacher(self) -> None:
        """Start the stand-in teacher."""
        port = str(self.ports["teacher"])
        command = self._as_user("-m", "flywheel_stand_ins", "teacher", "--port", port)
        command += ["--answers", str(self.home / "state/demo/headlines.csv")]
        self.processes.start("teacher", command, env=self.environment)

    def run(self, module: str, *arguments: str, **variables: str) -> str:
        """Run a module of Python as the user of Airflow, in its environment, and return what it prints."""
        done = subprocess.run(
            self._as_user("-m", module, *arguments),
            env={**self.environment, **variables}, cwd=self.home, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{module} {' '.join(arguments)}: {(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    def _as_user(self, *arguments: str) -> list[str]:
        # The capability: the repository and its Python may lie where only root can look.
        right = [f"--{kind}-caps=-all,+dac_override" for kind in ("inh", "ambient")]
        return [*_identity(USER_ID), *right, sys.executable, *arguments]

    def _start_postgres(self) -> None:
        install_packages(POSTGRES_PACKAGES)
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        data, port, owner = self.home / "postgres", str(self.ports["postgres"]), _identity("postgres")
        if not data.exists():
            data.mkdir()
            shutil.chown(data, "postgres", "postgres")
            command = [*owner, f"{programs}/initdb", "-D", str(data), "--auth", "trust", "-E", "UTF8"]
            subprocess.run(command, check=True, capture_output=True)
        settings = (
            "-p",
            port,
            "-h",
            "127.0.0.1",
            "-k",
            str(data),
            "-c",
            "fsync=off",
            "-c",
            "max_connections=200",
        )
        self.processes.start("postgres", [*owner, f"{programs}/postgres", "-D", str(data), *settings])
        ready = [f"{programs}/pg_isready", "-U", "postgres", "-h", "127.0.0.1", "-p", port]
        wait_until("PostgreSQL", lambda: subprocess.run(ready, capture_output=True).returncode == 0, 60)

    # -- runs ----------------------------------------------------------------------------------------

    def trigger(self, run_id: str, dag: str = DAG, **params: Any) -> None:
        """Ask for a run of a DAG."""
        body = {"dag_run_id": run_id, "logical_date": datetime.now(UTC).isoformat(), "conf": params}
        answer = self._api.post(f"/api/v2/dags/{dag}/dagRuns", json=body, headers=self._login())
        answer.raise_for_status()

    def state(self, run_id: str, dag: str = DAG) -> str:
        """Return the state of a run."""
        return str(self._get(f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}").get("state"))

    def note(self, run_id: str, dag: str = DAG) -> str:
        """Return the note of a run; empty where there is none."""
        return self._get(f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}").get("note") or ""

    def mark(self, run_id: str, state: str, dag: str = DAG) -> None:
        """Mark a whole run, as a person does in the UI."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}"
        self._api.patch(path, json={"state": state}, headers=self._login()).raise_for_status()

    def cancel(self, job_id: str) -> None:
        """Cancel a run, as a program does by the orchestrator API."""
        self._api.post(f"/flywheel/api/jobs/{job_id}/cancel", headers=self._login()).raise_for_status()

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a run as the orchestrator API shows it."""
        return self._get(f"/flywheel/api/jobs/{job_id}")

    def run_page(self, run_id: str) -> dict[str, Any]:
        """Return a run as the results page reads it."""
        return self._get(f"/flywheel/api/runs/{quote(run_id)}")

    def tasks(self, run_id: str, dag: str = DAG) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        found: list[dict[str, Any]] = []
        while True:
            page = f"limit=100&offset={len(found)}"
            answer = self._get(f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}/taskInstances?{page}")
            found += answer.get("task_instances", [])
            if len(found) >= answer.get("total_entries", 0):
                return found

    def wait(self, run_id: str, seconds: float, dag: str = DAG) -> str:
        """Wait for the end of a run and return its state."""
        wait_until(f"run {run_id}", lambda: self.state(run_id, dag) in ("success", "failed"), seconds)
        return self.state(run_id, dag)

    def log(self, run_id: str, task_id: str, map_index: int = -1, attempt: int = 1, dag: str = DAG) -> str:
        """Return the log of a try of a task, as the UI shows it."""
        return "\n".join(line for _, line in self.log_lines(run_id, task_id, map_index, attempt, dag))

    def log_lines(
        self, run_id: str, task_id: str, map_index: int = -1, attempt: int = 1, dag: str = DAG
    ) -> list[tuple[str, str]]:
        """Return the lines of that log with their times; "" for a line that has none."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/logs/{attempt}"
        answer = self._get(f"{path}?map_index={map_index}&full_content=true")
        lines = [
            line if isinstance(line, dict) else {"event": str(line)} for line in answer.get("content", [])
        ]
        return [(str(line.get("timestamp") or ""), _text(line)) for line in lines]

    def patch_task(self, run_id: str, task_id: str, map_index: int, state: str, dag: str = DAG) -> None:
        """Mark a task, as a person does in the UI."""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote(run_id)}/taskInstances/{task_id}"
        path += f"/{map_index}" if map_index >= 0 else ""
        answer = self._api.patch(path, json={"new_state": state}, headers=self._login())
        answer.raise_for_status()

    def clear_task(self, run_id: str, task_id: str, map_index: int, dag: str = DAG) -> None:
        """Clear a task, as a person does in the UI."""
        body = {
            "dag_run_id": run_id,
            "task_ids": [[task_id, map_index] if map_index >= 0 else task_id],
            "dry_run": False,
            "only_failed": False,
        }
        answer = self._api.post(f"/api/v2/dags/{dag}/clearTaskInstances", json=body, headers=self._login())
        answer.raise_for_status()

    def report(self, run_id: str, root: str = "artifacts") -> dict[str, Any]:
        """Return report.json of a run whose artifact root is a folder."""
        found: dict[str, Any] = json.loads((self.home / root / "runs" / run_id / "report.json").read_text())
        return found

    def _get(self, path: str) -> dict[str, Any]:
        try:
            answer = self._api.get(path, headers=self._login())
            answer.raise_for_status()
        except httpx.HTTPError:
            return {}
        return dict(answer.json())

    def job_operator(self) -> str:
        """Return the type of the jobs' tasks in the DAG as Airflow has read it last."""
        return str(self._get(f"/api/v2/dags/{DAG}/tasks/candidate.customize").get("operator_name"))

    def has_triggerer(self, since: datetime) -> bool:
        """Return whether a triggerer has told that it is alive after a time."""
        told = self._get("/api/v2/monitor/health").get("triggerer", {}).get("latest_triggerer_heartbeat")
        return bool(told) and datetime.fromisoformat(told) > since

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
    return {(row["student"], row["size"]): row["score"] for row in report["candidates"]}


def _text(line: dict[str, Any]) -> str:
    """Return a line of a log with the errors that the UI shows below it."""
    errors = [str(error.get("exc_value", "")) for error in line.get("error_detail") or ()]
    return " ".join([str(line.get("event", "")), *errors])


def _identity(user: int | str) -> list[str]:
    return ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
