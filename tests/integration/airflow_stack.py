"""A real Airflow for tests: API servers, scheduler with LocalExecutor, a stand-in teacher, in a folder of its own.

It is the Airflow that `flywheel up` starts, with a small experiment: demo headlines, the smallest demo
student, and one whose weights are missing. Each test keeps its data apart by what config.yaml says while its
run is planned.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
import psutil
import yaml

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.experiments import laid_over
from flywheel.demo.headlines import write_csv
from flywheel.laptop import home
from flywheel.laptop.api import DONE, AirflowApi, TaskState
from flywheel.laptop.failures import describe, log_path
from flywheel.laptop.launcher import Launcher
from flywheel.laptop.processes import free_port
from flywheel.runs.run import Run

PROJECT = Path(__file__).parents[2]
HEADLINES = 420
SIZES = [40, 120]
TIME_ZONE = "America/New_York"
STUDENTS = "include/flywheel/demo/students"


def make_home(folder: Path, **sections: Any) -> Path:
    """Make a project folder that shares this one's code, with a small experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dags", "plugins", "include"):
        (folder / name).symlink_to(PROJECT / name)
    write_csv(folder / "headlines.csv", HEADLINES)
    (folder / "config.yaml").write_text(yaml.safe_dump({**experiment(), **sections}))
    return folder


def experiment() -> dict[str, Any]:
    """Return a config that takes seconds."""
    return {
        "client_id": "test",
        "sizes": SIZES,
        "source": {
            "path": "headlines.csv",
            "columns": {"text": "headline", "timestamp": "date", "human_label": "human_label"},
        },
        "teacher": {"model": "stand-in", "concurrency": 4},
        "nims": [
            {
                "model_name": "demo/small",
                "name": "small",
                "weights": f"{STUDENTS}/small",
                "context_length": 2048,
                "gpus": 0,
            },
            {"model_name": "demo/broken", "name": "broken", "weights": "no/such/weights", "gpus": 0},
        ],
        "data_split_config": {"eval_size": 60, "val_ratio": 0.05, "min_total_records": 50},
        # Enough for every candidate to beat the most frequent answer: another one would never be chosen.
        "student_prompt": "text",
        "training_config": {"epochs": 5, "batch_size": 16, "learning_rate": 0.005, "validations": 1},
        "evaluation_config": {"bootstrap_samples": 100},
        "promotion": {"within": 1.0, "min_eval": 1},
        # Nightly, at an hour that is not now: a backfill needs a schedule, and nothing may start by itself.
        "schedule": {
            "cron": f"0 {(datetime.now(ZoneInfo(TIME_ZONE)).hour + 12) % 24} * * *",
            "time_zone": TIME_ZONE,
        },
    }


class Stack:
    """A running Airflow.

    Args:
        folder: made by `make_home`; FLYWHEEL_HOME has to name it.
        variables: added to the environment of all of Airflow's components.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.pids: dict[str, int] = {}
        self.given_up: set[str] = set()  # components that ended too often to be started again
        home.prepare()
        ports = home.Ports(ui=free_port(), tasks=free_port())
        home.write_settings(ports)
        self.api = AirflowApi(f"http://127.0.0.1:{ports.ui}")
        self.teacher_port = free_port()
        self.teacher_url = f"http://127.0.0.1:{self.teacher_port}/v1"
        teacher = {"AIRFLOW_CONN_FLYWHEEL_TEACHER": self.teacher_url}
        self.launcher = Launcher(ports, {**teacher, **(variables or {})}, self._on_event)
        for name in ("tasks-api", "scheduler", "ui"):
            self.launcher.start(name)
        self.launcher.start("teacher", self.teacher(folder / "headlines.csv", self.teacher_port))
        self.http = httpx.Client(base_url=self.api.url, timeout=30, trust_env=False)
        self._log_in()

    def teacher(self, answers: Path, port: int, *options: str) -> list[str]:
        """Return the command of a stand-in teacher."""
        command = [sys.executable, "-m", "flywheel_stand_ins", "teacher"]
        return [*command, "--answers", str(answers), "--port", str(port), *options]

    def stop(self) -> None:
        """End everything."""
        self.launcher.stop()

    def _on_event(self, event: dict[str, Any]) -> None:
        if "started" in event:
            self.pids[event["started"]] = event["pid"]
        if event.get("given_up"):
            self.given_up.add(event["ended"])

    def _log_in(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = self.http.post(
                    "/auth/token", json={"username": home.USER, "password": home.password()}
                )
                answer.raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, "Airflow did not start"
                time.sleep(0.2)
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    # -- runs ----------------------------------------------------------------------------------------

    def trigger(self, run_id: str, overrides: dict[str, Any], **params: Any) -> None:
        """Start a run that is planned with the operator's words, which no param of a run may say."""
        with self.configured(overrides):
            body = {"dag_run_id": run_id, "logical_date": None, "conf": params}
            answer = self.http.post("/api/v2/dags/flywheel/dagRuns", json=body)
            assert answer.status_code == 200, answer.text
            if overrides:
                wait_for(lambda: self._is_planned(run_id), 240)

    def _is_planned(self, run_id: str) -> bool:
        states = [task.state for task in self.tasks(run_id) if task.task == "plan"]
        return states in (["success"], ["failed"]) or self.api.run_state(run_id) in DONE

    @contextmanager
    def configured(self, overrides: dict[str, Any]) -> Iterator[None]:
        """Have the operator's file say something else for a while."""
        file = self.folder / "config.yaml"
        before = file.read_text()
        replace(file, yaml.safe_dump(laid_over(yaml.safe_load(before), overrides)))
        try:
            yield
        finally:
            replace(file, before)

    def wait(self, run_id: str, seconds: float = 500) -> str:
        """Wait until a run has ended; return its state."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.api.run_state(run_id)
            if state in DONE:
                return str(state)
            time.sleep(0.3)
        raise AssertionError(f"{run_id} did not end in {seconds} s: {self.states(run_id)}")

    def turn(self, run_id: str, overrides: dict[str, Any], **params: Any) -> str:
        """Start a run and wait until it has ended."""
        self.trigger(run_id, overrides, **params)
        return self.wait(run_id)

    def tasks(self, run_id: str) -> list[TaskState]:
        return self.api.tasks(run_id)

    def states(self, run_id: str) -> dict[str, str]:
        return {task.name: task.state for task in self.tasks(run_id)}

    def explain(self, run_id: str) -> str:
        """Return the logs' ends of what failed."""
        return "\n".join(describe(run_id, self.tasks(run_id)))

    def log(self, run_id: str, name: str) -> str:
        """Return the log of a task by its name for people."""
        (task,) = [task for task in self.tasks(run_id) if task.name == name]
        return log_path(run_id, task).read_text()

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """Call the REST API."""
        answer = self.http.request(method, f"/api/v2{path}", json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def task_path(self, run_id: str, task: str, map_index: int | None = None) -> str:
        path = f"/dags/flywheel/dagRuns/{quote(run_id)}/taskInstances/{task}"
        return path if map_index is None else f"{path}/{map_index}"

    def teacher_calls(self, port: int | None = None) -> int:
        """Return how many answers a teacher was asked for; wait until it serves."""
        url = f"http://127.0.0.1:{port or self.teacher_port}/stats"

        def calls() -> list[int]:
            try:
                return [int(httpx.get(url, trust_env=False).json()["calls"])]
            except httpx.HTTPError:
                return []

        return wait_for(calls)[0]

    def backfill(self, first: str, last: str, *options: str, **params: Any) -> list[str]:
        """Start a backfill of the nights from one day to another; return its runs, in order of time."""
        conf = json.dumps(params)
        before = {run["dag_run_id"] for run in self._backfilled()}
        self.airflow(
            *("backfill", "create", "--dag-id", "flywheel", "--from-date", first, "--to-date", last),
            *("--dag-run-conf", conf, *options),
        )
        runs = [run for run in self._backfilled() if run["dag_run_id"] not in before]
        return [run["dag_run_id"] for run in sorted(runs, key=lambda run: str(run["logical_date"]))]

    def _backfilled(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rest("GET", "/dags/flywheel/dagRuns?run_type=backfill&limit=100")[
            "dag_runs"
        ]
        return found

    def backfills(self) -> list[dict[str, Any]]:
        """Return the backfills of the DAG, over or not."""
        found: list[dict[str, Any]] = self.rest("GET", "/backfills?dag_id=flywheel")["backfills"]
        return found

    def airflow(self, *arguments: str) -> str:
        """Run an `airflow` command."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=home.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def config(self) -> dict[str, Any]:
        """Return what the config file says."""
        found: dict[str, Any] = yaml.safe_load((self.folder / "config.yaml").read_text())
        return found

    def flywheel(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `./flywheel` command, whose standard input is no terminal."""
        with self.flywheel_running(*arguments) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def flywheel_running(self, *arguments: str) -> Any:
        """Start a `./flywheel` command, whose standard input is no terminal."""
        return subprocess.Popen(
            [str(PROJECT / "flywheel"), *arguments],
            env={**os.environ, "FLYWHEEL_HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def replace(file: Path, text: str) -> None:
    """Write a file that others read meanwhile."""
    aside = file.with_name(f".{file.name}.aside")
    aside.write_text(text)
    aside.replace(file)


def apart(folder: Path, **sections: Any) -> dict[str, Any]:
    """Return sections of a config that keep a test's records, artifacts and tracking in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "artifacts": {"root": str(folder / "artifacts")},
        "store": {"path": str(folder / "records.sqlite")},
        "mlflow_config": {
            "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
            "artifact_location": str(folder / "mlruns"),
        },
        **sections,
    }


def report_of(folder: Path, run_id: str) -> dict[str, Any]:
    """Return report.json of a run."""
    run = Run(ArtifactRoot(str(folder / "artifacts")), run_id)
    report: dict[str, Any] = json.loads((folder / "artifacts" / run.path / "report.json").read_text())
    return report


def table_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return what table 1 shows, without times."""
    return {
        f"{row['student']} @ {row['size']}": (row["score"], row["adapter"]) for row in report["candidates"]
    }


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is so, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def jobs_running(folder: Path) -> list[int]:
    """Return the processes of the jobs that the fork servers of a project run now."""
    found = []
    for file in (folder / "state" / "jobs").glob("fork-*.pid"):
        try:
            found += [child.pid for child in psutil.Process(int(file.read_text())).children()]
        except (psutil.NoSuchProcess, ValueError, FileNotFoundError):
            continue
    return found


def halted_jobs(folder: Path, when: Callable[[], Any]) -> list[int]:
    """Return the jobs' processes of a project, halted while something is so; none where it is not, and all go on.

    So what is true for a moment only, such as that a training is in its middle, is caught on any machine.
    """
    jobs = jobs_running(folder) if when() else []
    for job in jobs:
        os.kill(job, signal.SIGSTOP)
    if when():
        return jobs
    go_on(jobs)
    return []


def go_on(jobs: list[int]) -> None:
    """Let halted processes go on, where they have not been ended meanwhile."""
    for job in jobs:
        with suppress(ProcessLookupError):
            os.kill(job, signal.SIGCONT)


def in_progress(root: Path, run_id: str, job: str) -> Callable[[], bool]:
    """Return what tells whether a job, such as `small@40/customize`, has told how far it is and goes on."""
    folder = root / Run(ArtifactRoot(str(root)), run_id).path / "jobs"
    return lambda: (folder / f"{job}.progress.json").exists() and not (folder / f"{job}.json").exists()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(folder: Path) -> list[str]:
    """Return the processes that work for a project folder: none may be left when its Airflow has ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLYWHEEL_HOME") == str(folder) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()) or process.name())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
