"""Airflow's components as forks of one process that has imported Airflow, and the watch over them.

Each component of Airflow is an `airflow …` command; started one by one, each spends 2 s of CPU time on the
same imports. Here one process imports once and forks them (on Linux; elsewhere they are started one by
one). The API of the tasks and the UI are two servers: the first is ready before the second is, and tasks
need only the first. Measured on 2 idle cores: 1.6 s of imports, then 2.4 s until tasks can start.

    python -m flywheel.laptop.components     one JSON event a line on stdout; commands on stdin

Events: {"started": name, "pid"}, {"ended": name, "given_up"}, {"done": command, "code"}.
Commands: {"run": [arguments of `airflow`], "then": command}, {"start": name, "command": [of a program that
is not Airflow's]}, {"stop": seconds}. When stdin ends, whoever started this is gone, and all is ended.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flywheel.common.forks import become, reaped, wakeup
from flywheel.config.private import UMASK
from flywheel.laptop.home import airflow_home
from flywheel.laptop.processes import end_sessions, end_stale, started_at
from flywheel.runtimes.local.fork_client import stop_servers
from flywheel.runtimes.local.processes import jobs_folder

COMPONENTS = {
    "tasks-api": ("api-server", "--apps", "execution", "--host", "127.0.0.1", "--port", "{tasks}"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "ui": ("api-server", "--apps", "core", "--host", "127.0.0.1", "--port", "{ui}"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}

# Imported before the forks. One that a later Airflow does not have costs time, nothing else.
PRELOAD = (
    "airflow.__main__",
    "airflow.jobs.scheduler_job_runner",
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.api_fastapi.app",
    "flywheel.orchestration",
    "flywheel.runtimes.local.operator",
    "flywheel.stages.curate",
)

RESTARTS = 5
_GC_PAUSE_SECONDS = 15.0


class Components:
    """Starts, watches and ends Airflow's components.

    Args:
        ports: of the component servers, as `COMPONENTS` names them.
    """

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self.running: dict[int, str] = {}
        self.commands: dict[int, tuple[list[str], Any]] = {}
        self.restarts: dict[str, int] = {}
        self.others: dict[str, list[str]] = {}
        self.sessions = airflow_home() / "sessions.json"
        self.logs = airflow_home() / "logs" / "components"
        self.logs.mkdir(parents=True, exist_ok=True)
        if self.sessions.exists():
            end_stale(json.loads(self.sessions.read_text()))
        self._remember()

    def start(self, name: str) -> None:
        """Start a component."""
        log = self.logs / f"{name}.log"
        if name in self.others:
            pid = _new_process(self.others[name], log)
        else:
            arguments = [part.format(**self.ports) for part in COMPONENTS[name]]
            pid = self._spawn(arguments, log, server=arguments[0] == "api-server")
        self.running[pid] = name
        self._remember()
        tell(started=name, pid=pid)

    def run(self, arguments: list[str], then: Any) -> None:
        """Run an `airflow` command that ends by itself; `then` is a command to follow its success."""
        pid = self._spawn(arguments, self.logs / "commands.log")
        self.commands[pid] = (arguments, then)
        tell(started=" ".join(arguments), pid=pid)

    def reap(self) -> None:
        """Notice what has ended: a component is started again, its workers and tasks being ended first."""
        for pid, code in reaped():
            if pid in self.commands:
                command, then = self.commands.pop(pid)
                tell(done=command, code=code)
                if code == 0 and then:
                    self.obey(then)
            elif pid in self.running:
                name = self.running.pop(pid)
                end_sessions([pid])
                self.restarts[name] = self.restarts.get(name, 0) + 1
                given_up = self.restarts[name] > RESTARTS
                tell(ended=name, given_up=given_up)
                if not given_up:
                    self.start(name)

    def obey(self, command: dict[str, Any]) -> bool:
        """Do what a command says; return False where it says to stop."""
        if "run" in command:
            self.run(command["run"], command.get("then"))
        elif "start" in command:
            if command.get("command"):
                self.others[command["start"]] = command["command"]
            self.start(command["start"])
        elif "stop" in command:
            self.stop(float(command["stop"]))
            return False
        return True

    def stop(self, grace_seconds: float) -> None:
        """End all components and all that they started."""
        pids = [*self.running, *self.commands]
        end_sessions(pids, grace_seconds)
        stop_servers(jobs_folder())
        self.running.clear()
        self._remember()

    def _spawn(self, arguments: list[str], log: Path, server: bool = False) -> int:
        if sys.platform != "linux":
            return _new_process([sys.executable, "-m", "airflow", *arguments], log)
        watcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._become(watcher, log, server)
                code = _airflow(arguments)
            finally:
                os._exit(code)
        return pid

    def _become(self, watcher: int, log: Path, server: bool) -> None:
        """Make this fork a process of its own."""
        become(watcher, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        gc.freeze()
        if server:
            # A line for each request of each task is of no use here, and takes a tenth of the time.
            os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
            # A server makes a million objects while it starts, all of which stay: collecting among them
            # takes a third of the time.
            timer = threading.Timer(_GC_PAUSE_SECONDS, _collect_again)
            timer.daemon = True
            timer.start()
        else:
            gc.enable()

    def _remember(self) -> None:
        """Write down the sessions, for the next start after this process was killed."""
        aside = self.sessions.with_suffix(".aside")
        aside.write_text(json.dumps({str(pid): started_at(pid) for pid in self.running}))
        os.replace(aside, self.sessions)


def _collect_again() -> None:
    gc.freeze()
    gc.enable()


def _new_process(command: list[str], log: Path) -> int:
    with open(log, "ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        ).pid


def _airflow(arguments: list[str]) -> int:
    """Run an `airflow` command in this process, and return its exit code."""
    from airflow.__main__ import main

    sys.argv = ["airflow", *arguments]
    try:
        main()  # type: ignore[no-untyped-call]
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
    return 0


def tell(**event: Any) -> None:
    """Report an event to whoever started this."""
    with suppress(BrokenPipeError):
        os.write(1, json.dumps({**event, "at": time.time()}).encode() + b"\n")


def preload() -> None:
    """Import what the forks need, without starting a thread: a process with threads is not safe to fork."""
    import importlib

    given = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in PRELOAD:
        with suppress(ImportError):
            importlib.import_module(name)
    if given is None:
        del os.environ["OPENBLAS_NUM_THREADS"]
    else:
        os.environ["OPENBLAS_NUM_THREADS"] = given


def main(arguments: list[str]) -> int:
    """Start the components as stdin says, and watch them until it ends."""
    gc.disable()  # imports make objects that stay
    os.umask(UMASK)  # of all of Airflow's processes, and of the jobs they start
    tasks, ui = (int(argument) for argument in arguments)
    components = Components({"tasks": tasks, "ui": ui})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever started this says when to stop
    if sys.platform == "linux":
        preload()
    tell(ready=True)
    signals = wakeup()
    selector = selectors.DefaultSelector()
    selector.register(signals, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    rest = b""
    while True:
        for key, _ in selector.select(timeout=5.0):
            if key.fd == 0:
                data = os.read(0, 65536)
                if not data:
                    components.stop(0.0)
                    return 0
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if not components.obey(json.loads(line)):
                        return 0
            else:
                with suppress(BlockingIOError):
                    signals.recv(4096)
        components.reap()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
