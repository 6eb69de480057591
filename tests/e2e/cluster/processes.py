"""Long-lived processes of the cluster: each has a pid file and a log, and outlives the one who starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil


class Processes:
    """Starts and stops processes by name.

    Args:
        folder: where their pid files (run/) and logs (log/) are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "run").mkdir(parents=True, exist_ok=True)
        (folder / "log").mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: list[str], env: dict[str, str] | None = None) -> None:
        """Start a process, unless it runs; one that runs with another command is ended first."""
        told = self.folder / "run" / f"{name}.command"
        if self.running(name) and told.exists() and told.read_text() == "\0".join(command):
            return
        self.stop(name)
        with open(self.folder / "log" / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid_file(name).write_text(f"{process.pid} {_started(process.pid)}")
        told.write_text("\0".join(command))

    def running(self, name: str) -> bool:
        """Return whether the process of that name runs."""
        return self._pid(name) is not None

    def stop(self, name: str, number: int = signal.SIGTERM, patience: float = 15.0) -> None:
        """Send a signal and wait for the end; after `patience` seconds, kill."""
        pid = self._pid(name)
        if pid is None:
            return
        deadline = time.monotonic() + patience
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            while self._pid(name) is not None:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
        if (
            number != signal.SIGKILL
        ):  # what it started and left behind; a kill by hand leaves that to find out
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._pid_file(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """Kill a process at once with all that it has started, as when its container or machine is gone."""
        pid = self._pid(name)
        if pid is not None:
            with suppress(psutil.NoSuchProcess):
                _end([psutil.Process(pid)])
        self._pid_file(name).unlink(missing_ok=True)

    def seconds_of_cpu(self, name: str) -> float:
        """Return the CPU time of a process, of those it has waited for, and of its children."""
        pid = self._pid(name)
        if pid is None:
            return 0.0
        total = 0.0
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(one.cpu_times()[:4])
        return total

    def _pid_file(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.pid"

    def _pid(self, name: str) -> int | None:
        """Return the pid, if it still is the process that was started and no other with its number."""
        try:
            pid, started = self._pid_file(name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        with suppress(ChildProcessError):
            os.waitpid(int(pid), os.WNOHANG)
        return int(pid) if _started(int(pid)) == started else None


def wait_until(what: str, ready: Callable[[], bool], seconds: float) -> None:
    """Wait until `ready()` is true.

    Raises:
        TimeoutError: it was not in that time.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {seconds:g} s")
        time.sleep(0.2)


def end_all(words: str) -> None:
    """Kill all processes whose command line has these words, with all that they have started."""
    _end(
        process
        for process in psutil.process_iter(["cmdline"])
        if words in " ".join(process.info["cmdline"] or ())
    )


def end_all_with(variable: str, value: str) -> None:
    """Kill all processes that have a variable of the environment of this value."""
    _end(
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(variable) == value
    )


def _end(processes: Iterable[psutil.Process]) -> None:
    found = [process for process in processes if process.pid != os.getpid()]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            for one in (*process.children(recursive=True), process):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    psutil.wait_procs(found, timeout=10)


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "" where there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
