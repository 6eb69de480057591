"""`flywheel up`: start Airflow on this machine, turn the wheel once, show the table, leave the UI up.

Measured on 2 cores: see docs/LOG.md.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, FlywheelError
from flywheel.config import Config, load_config
from flywheel.config.experiments import dag_id_of
from flywheel.config.loading import resolve_path
from flywheel.laptop import endpoint, home, stand_in
from flywheel.laptop.api import DONE, AirflowApi, wait_until_it_answers
from flywheel.laptop.failures import describe
from flywheel.laptop.interrupts import Interrupts
from flywheel.laptop.launcher import Launcher
from flywheel.laptop.processes import free_port
from flywheel.laptop.progress import RunProgress
from flywheel.runs.names import airflow_run, run_id_of
from flywheel.runs.run import Run, seconds_of
from flywheel.runtimes import open_runtime
from flywheel.stages.upgrade import upgrade
from flywheel.workloads.workload import Workload

POLL_SECONDS = 0.25
# Of the tasks, and of all while jobs are at work: a look is CPU time of the UI's server that jobs could have.
TASKS_POLL_SECONDS = 1.0
JOBS_POLL_SECONDS = 2.0
# When what a run does not wait for is started beside it: together they take a tenth of a core.
REST_SECONDS = 300.0
BROKEN_SECONDS = 60.0
UI_SECONDS = 30.0
INTERRUPTED = 130
STATE_FILE = "state/up.json"


class UpError(FlywheelError):
    """Airflow did not start, or was stopped before the run ended."""


def up(experiment: str = "", *, nemo_stand_in: bool = False) -> int:
    """Turn the wheel of an experiment once on this machine; return 0 if the run ended well, else 1.

    Args:
        nemo_stand_in: run the jobs on a stand-in for NeMo.
    """
    from rich.console import Console

    started_at = time.time()
    console = Console()
    nemo: list[str] = []
    if nemo_stand_in:
        from flywheel.laptop.nemo import use_stand_in

        nemo = use_stand_in()
    config = load_config(experiment=experiment)
    with ExitStack() as stack:
        stack.enter_context(_only_one())
        interrupts = stack.enter_context(Interrupts())
        wheel = _Wheel(experiment, config, console, started_at, interrupts, nemo)
        stack.callback(wheel.stop)
        code = INTERRUPTED
        try:
            code = wheel.turn()
            if os.environ.get("CI", "").lower() in ("", "0", "false"):
                wheel.stay()
        except KeyboardInterrupt:
            console.print("\nstopping Airflow")
    return code


class _Wheel:
    """One `flywheel up`."""

    def __init__(
        self,
        experiment: str,
        config: Config,
        console: Any,
        started_at: float,
        interrupts: Interrupts,
        nemo: list[str],
    ) -> None:
        self.config = config
        self.experiment = experiment
        self.runtime = open_runtime(config)
        self.nemo = nemo
        self.console = console
        self.interrupts = interrupts
        self.started_at = started_at
        self.clock = time.monotonic() - (time.time() - started_at)
        self.ended = False
        self.problem = ""
        self.launcher: Launcher | None = None
        self.left_behind = ""
        self.broken_since = float("inf")
        self.ports = home.Ports(ui=free_port(home.UI_PORT), tasks=free_port())
        self.api = AirflowApi(f"http://127.0.0.1:{self.ports.ui}")

    def turn(self) -> int:
        """Start what is needed, trigger a run, follow it to its end and show what it gave."""
        for line in upgrade(self.config):
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        run = None
        if home.is_prepared():
            run = self._unfinished()
        else:
            self.console.print("first start: making Airflow's database")
            home.prepare()
        home.write_settings(self.ports)
        is_new = run is None
        run = run or self._new_run()
        self._write_state(run, ended=False)
        teacher, variables = self._teacher()
        with self.interrupts.held():
            self.launcher = Launcher(self.ports, variables, self._on_event)
        if teacher:
            self.launcher.start("teacher", teacher)
        if self.nemo:
            self.launcher.start("nemo", self.nemo)
        self._start_airflow(run if is_new else None)
        with RunProgress(self.console, run, self.clock) as progress:
            state = self._follow(run, progress)
        self.ended = True
        self._write_state(run, ended=True)
        return self._conclude(run, state, progress)

    def stay(self) -> None:
        """Leave the UI up, and the champion answering, until Ctrl-C."""
        self.console.print(f"\nAirflow is up: {self._address()}\nCtrl-C stops it.", highlight=False)
        port = free_port(self.config.serving.port)
        assert self.launcher is not None
        self.launcher.start(endpoint.NAME, endpoint.command(port, self.experiment))
        told = False
        while not self.problem:
            time.sleep(0.5)
            if not told and endpoint.answers(port):
                told = True
                line = endpoint.line_to_try(port, self._workload())
                self.console.print(
                    f"The champion answers, too:\n{line}", highlight=False, markup=False, soft_wrap=True
                )
        raise UpError(self.problem)

    def stop(self) -> None:
        """End everything that was started, with all its processes."""
        with self.interrupts.held():
            if self.launcher:
                self.launcher.stop()

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _workload(self) -> str:
        return Workload.load(self.config.workload).id

    def _address(self) -> str:
        url = f"http://localhost:{self.ports.ui}"
        return f"[bold]{url}[/]  user {home.USER}, password {home.password()}"

    # -- starting ------------------------------------------------------------------------------------

    def _start_airflow(self, run: Run | None) -> None:
        """Start the API of the tasks, which takes longest, and the scheduler; trigger the run at once."""
        assert self.launcher is not None
        self.launcher.start("tasks-api")
        dag_id, airflow_id = airflow_run(run.run_id) if run else ("", "")
        trigger = {"run": ("dags", "trigger", dag_id, "--run-id", airflow_id)} if run else None
        if not home.is_serialized():
            self.launcher.run("dags", "reserialize", then=trigger)
        elif trigger:
            self.launcher.run(*trigger["run"])
        self.launcher.start("scheduler")
        if self.runtime.defers:  # jobs wait in the triggerer
            self.launcher.start("triggerer")
        threading.Thread(target=self._start_ui, daemon=True).start()

    def _start_ui(self) -> None:
        """Start the UI when the API of the tasks answers.

        Side by side they would share the cores, and the first task would have to wait for both. The first
        request also has the API make its routes, which takes as long as all else of its start.
        """
        assert self.launcher is not None
        wait_until_it_answers(f"http://127.0.0.1:{self.ports.tasks}/execution/health", UI_SECONDS)
        self.launcher.start("ui")

    def _teacher(self) -> tuple[list[str], dict[str, str]]:
        """Return the command of the stand-in, and the variables that tell where it will listen.

        Both are empty where the config, or the environment, names a teacher of its own.
        """
        stand_in.write_demo(self.config)
        if not stand_in.is_needed(self.config):
            return [], {}
        port = free_port()
        stand_in.remember(stand_in.address(port))
        return stand_in.command(port), {stand_in.variable(self.config): stand_in.address(port)}

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("launcher") == "ended" and not self.ended:
            self.problem = "Airflow's processes have ended"
        if event.get("given_up") and event["ended"] == endpoint.NAME:
            self._say(f"the champion's endpoint does not stay up; see {home.airflow_home()}/logs/components")
        elif event.get("given_up"):
            log = home.airflow_home() / "logs" / "components" / f"{event['ended']}.log"
            self.problem = f"Airflow's {event['ended']} does not stay up; see {log}"
        if "done" in event:
            if event["code"]:
                log = home.airflow_home() / "logs" / "components" / "commands.log"
                self.problem = f"`airflow {' '.join(event['done'])}` failed; see {log}"
            elif "reserialize" in event["done"]:
                home.mark_serialized()

    # -- following -----------------------------------------------------------------------------------

    def _follow(self, run: Run, progress: RunProgress) -> str:
        """Show the run until it has ended; return its state."""
        rest_at = time.monotonic() + REST_SECONDS
        warm = told = rested = False
        looked_at = 0.0
        while True:
            time.sleep(JOBS_POLL_SECONDS if progress.jobs_are_running() else POLL_SECONDS)
            if self.problem:
                raise UpError(self.problem)
            state = self.api.run_state(run.run_id)
            if state and (state in DONE or time.monotonic() - looked_at > TASKS_POLL_SECONDS):
                progress.update(self.api.tasks(run.run_id))
                looked_at = time.monotonic()
                self._look_at_imports(progress)
            if state and not told:
                told = True
                self.console.print(f"Airflow's UI: {self._address()}", highlight=False)
            if state and self.left_behind:
                self.api.fail_run(self.left_behind)
                self.left_behind = ""
            if not warm and self._needs_training(run):
                warm = True
                threading.Thread(target=self._warm_up, daemon=True).start()
            needed = state in DONE or progress.needs_the_rest() or time.monotonic() > rest_at
            if needed and not rested:
                rested = True
                self._start_the_rest()
            if state in DONE:
                return str(state)

    def _look_at_imports(self, progress: RunProgress) -> None:
        """Say that the DAG cannot be imported: Airflow then starts no task of it, and a run stands still."""
        errors = self.api.import_errors(self.experiment)
        if not errors:
            self.broken_since = float("inf")
            return
        reason = errors[0].strip().splitlines()[-1]
        progress.say(f"waiting: the DAG cannot be imported: {reason}")
        self.broken_since = min(self.broken_since, time.monotonic())
        if time.monotonic() - self.broken_since > BROKEN_SECONDS:
            raise UpError(f"the DAG cannot be imported:\n{errors[0].strip()}")

    def _start_the_rest(self) -> None:
        """Start what a run of jobs here does not wait for: the reader of changed DAG files, the triggerer."""
        assert self.launcher is not None
        self.launcher.start("dag-processor")
        if not self.runtime.defers:
            self.launcher.start("triggerer")

    def _needs_training(self, run: Run) -> bool:
        """Return whether students will have to be trained: nothing was yet, or there are new labels."""
        if not run.root.exists(f"{run.path}/plan.json"):
            return False
        if not run.root.list("adapters"):
            return True
        labelled = f"{run.path}/stages/label.json"
        return run.root.exists(labelled) and bool(run.root.read_json(labelled)["result"]["asked"])

    def _warm_up(self) -> None:
        self.runtime.warm_up()

    # -- the end -------------------------------------------------------------------------------------

    def _conclude(self, run: Run, state: str, progress: RunProgress) -> int:
        from flywheel.report import read_report, render_table

        for line in describe(run.run_id, progress.tasks):
            self.console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
        if run.root.exists(f"{run.path}/report.json"):
            self.console.print(render_table(read_report(run.root, run.run_id)))
            self.console.print(f"\n{run.root.url}/{run.path}/report.html", soft_wrap=True, highlight=False)
        took = time.time() - self.started_at
        work = seconds_of([times for stage in run.intervals().values() for times in stage])
        self.console.print(
            f"run {run.run_id}: {state}; {took:.1f} s, {took - work:.1f} s of them outside the stages",
            highlight=False,
        )
        return 0 if state == "success" else 1

    # -- runs ----------------------------------------------------------------------------------------

    def _new_run(self) -> Run:
        airflow_id = f"up__{datetime.now(UTC).strftime('%Y-%m-%dT%H-%M-%S')}"
        run_id = run_id_of(airflow_id, dag_id_of(self.experiment))
        return Run(ArtifactRoot(self.config.artifacts.root), run_id)

    def _unfinished(self) -> Run | None:
        """Return the run that an earlier `up` was stopped in, if it was planned from the config as it is."""
        last = self._read_state()
        if last is None or last["ended"] or airflow_run(last["run_id"])[0] != dag_id_of(self.experiment):
            return None
        run = Run(ArtifactRoot(self.config.artifacts.root), last["run_id"])
        try:
            same = run.plan.config == self.config
        except (ArtifactError, ValidationError):
            return None
        if same:
            self.console.print(f"going on with run {run.run_id}, which was stopped", highlight=False)
            return run
        self.left_behind = run.run_id
        return None

    def _read_state(self) -> dict[str, Any] | None:
        path = Path(resolve_path(STATE_FILE))
        try:
            state: dict[str, Any] = orjson.loads(path.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        return state

    def _write_state(self, run: Run, *, ended: bool) -> None:
        path = Path(resolve_path(STATE_FILE))
        path.write_bytes(orjson.dumps({"run_id": run.run_id, "ended": ended}))


@contextmanager
def _only_one() -> Iterator[None]:
    """Keep a second `up` of this project from starting."""
    path = Path(resolve_path("state/up.lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UpError(f"`flywheel up` runs already (process {file.read().strip()})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_up() -> bool:
    """Return whether a `flywheel up` of this project runs now."""
    try:
        with open(resolve_path("state/up.lock")) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
