"""Jobs as processes of this machine, as many at once as there are places.

A job is a fork of a process that has the heavy libraries imported (see `fork_server`) where the platform
can do that, else a new Python process. Either way what it prints arrives line by line, and it dies with the
one who asked for it, even if that one is killed with signal 9.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from flywheel.common.errors import JobError
from flywheel.config.loading import project_home, resolve_path
from flywheel.config.schema import RuntimeConfig
from flywheel.runtimes.base import GRACE_SECONDS, REFUSED, Job, RefusedJobError
from flywheel.runtimes.environment import needed_environment
from flywheel.runtimes.job_command import LIFELINE_VARIABLE
from flywheel.runtimes.local.fork_client import NoForkError, start_forked, warm_up
from flywheel.runtimes.local.forked import KEPT_FOR_VARIABLE
from flywheel.runtimes.local.slots import cpu_cores, gpus, take_slot

logger = logging.getLogger(__name__)

# Set to 0 to run each job in a new Python process.
FORK_VARIABLE = "FLYWHEEL_FORK_SERVER"

MAX_LINE = 8000
_LAST_LINES = 20


class Processes:
    """Runs jobs on this machine, one after another for each of these.

    Args:
        config: the section `runtime`.
        module: what a job runs, `main(arguments)` of it.
    """

    def __init__(self, config: RuntimeConfig, module: str = "flywheel.runtimes.job_command") -> None:
        self.config = config
        self.module = module
        self.devices = gpus()
        self.places = config.parallel or len(self.devices) or cpu_cores()
        self.threads = config.threads or max(1, cpu_cores() // self.places)
        self.python = config.python or sys.executable
        self.folder = jobs_folder()
        self._process: _Process | None = None
        self._killed = False

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Run a job to its end, handing each line it prints to `log` at once.

        Raises:
            RefusedJobError: the job says that what it was given is wrong.
            JobError: it crashed, was killed or ran out of time.
        """
        last: deque[str] = deque(maxlen=_LAST_LINES)

        def tell(line: str) -> None:
            last.append(line)
            log(line)

        with self._place(log) as slot:
            environment = self._environment(slot, job)
            code = self._run_forked(job, environment, tell) if _can_fork() else None
            if code is None:
                plain = PlainJob([self.python, "-m", self.module, *job.command], environment)
                code = self._follow(job, plain, tell)
        if code:
            raise _explain(job, code, last)

    def kill(self) -> None:
        """End the job that `run` is running, with all its processes."""
        self._killed = True
        if self._process:
            self._process.kill()

    def warm_up(self) -> None:
        """Import what jobs need ahead of the first one, in the background."""
        if _can_fork():
            with suppress(NoForkError):
                warm_up(self.folder, self.python, self._environment(0))

    @contextmanager
    def _place(self, log: Callable[[str], None]) -> Iterator[int]:
        """Take a place and give its number."""

        told = False

        def waiting() -> None:
            nonlocal told
            if self._killed:
                raise JobError("ended with its task, before it began")
            if not told:
                log(f"waiting: all {self.places} places for jobs are taken (runtime.parallel)")
            told = True

        with take_slot(self.folder, self.places, waiting) as slot:
            yield slot

    def _environment(self, slot: int, job: Job | None = None) -> dict[str, str]:
        """Return the environment of a job at a place; of none: what all of them have."""
        environment = needed_environment(
            job.spec if job else "", from_hub=bool(job and job.from_hub), also=self.config.variables
        )
        environment.update(
            FLYWHEEL_HOME=str(project_home()),
            FLYWHEEL_THREADS=str(self.threads),
            OMP_NUM_THREADS=str(self.threads),
            PYTHONUNBUFFERED="1",
        )
        if self.devices:
            device = self.devices[slot % len(self.devices)]
            # The next job on this GPU may go on in this one's process.
            environment |= {"CUDA_VISIBLE_DEVICES": device, KEPT_FOR_VARIABLE: device}
        return environment

    def _run_forked(self, job: Job, environment: dict[str, str], tell: Callable[[str], None]) -> int | None:
        """Run a job in a fork of the server; return None where that cannot be."""
        try:
            forked = start_forked(
                self.folder, self.python, self.module, job.command, environment, self.threads
            )
            return self._follow(job, forked, tell)
        except NoForkError as error:
            logger.warning("%s: no fork server, a new process instead: %s", job.name, error)
            return None

    def _follow(self, job: Job, process: _Process, tell: Callable[[str], None]) -> int:
        """Hand on what the job prints until it has ended; return its exit code."""
        self._process = process
        try:
            return self._watch(job, process, tell)
        finally:
            self._process = None
            process.kill()
            process.close()

    def _watch(self, job: Job, process: _Process, tell: Callable[[str], None]) -> int:
        deadline = time.monotonic() + self.config.job_timeout_hours * 3600
        lines = _PrintedLines(process.output, tell)
        code: int | None = None
        while code is None:
            select.select([*lines.watched(), *process.watched()], [], [], 0.2)
            lines.read()
            try:
                code = process.poll()
            except JobError as error:
                raise JobError(f"{job.name}: {error}") from None
            finally:
                if self._killed:
                    raise JobError(f"{job.name}: ended with its task") from None
            if code is None and time.monotonic() > deadline:
                hours = self.config.job_timeout_hours
                raise JobError(f"{job.name}: not done in {hours:g} hours; raise runtime.job_timeout_hours")
        lines.read(last=True)
        return code


class _Process(Protocol):
    """A running job: forked or in a new process."""

    output: int

    def watched(self) -> list[int]: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class PlainJob:
    """A job in a new process, which ends itself when the other end of its lifeline closes."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.output, write = os.pipe()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                command,
                env={**environment, LIFELINE_VARIABLE: str(lifeline)},
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                pass_fds=[lifeline],
                start_new_session=True,
            )
        finally:
            os.close(write)
            os.close(lifeline)

    def watched(self) -> list[int]:
        """Return no file descriptors: its end is seen by asking."""
        return []

    def poll(self) -> int | None:
        """Return the exit code (negative: a signal), or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Ask the job to end."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)

    def close(self) -> None:
        """End what is left of the job, collect it and give up the output."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lifeline)
        os.close(self.output)


class _PrintedLines:
    """Cuts what a job prints into lines; a progress bar's carriage return ends a line too."""

    def __init__(self, file: int, tell: Callable[[str], None]) -> None:
        self._file = file
        self._tell = tell
        self._rest = b""
        self._open = True
        os.set_blocking(file, False)

    def watched(self) -> list[int]:
        return [self._file] if self._open else []

    def read(self, *, last: bool = False) -> None:
        """Hand on the lines that are there; with `last`, an unfinished one too."""
        while self._open:
            try:
                data = os.read(self._file, 65536)
            except BlockingIOError:
                break
            self._open = bool(data)
            *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
            if len(self._rest) > MAX_LINE:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                self._hand_on(line)
        if last and self._rest:
            self._hand_on(self._rest)
            self._rest = b""

    def _hand_on(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode(errors="replace").rstrip()
        if text:
            self._tell(text)


def jobs_folder() -> Path:
    """Return the folder of the places' locks and the fork server's socket."""
    return Path(resolve_path("state/jobs"))


def _can_fork() -> bool:
    return os.environ.get(FORK_VARIABLE, "1") != "0" and sys.platform == "linux"


def _explain(job: Job, code: int, last: deque[str]) -> JobError:
    """Return why a job failed, in a sentence: its own where it printed one."""
    errors = [line.removeprefix("error: ") for line in last if line.startswith("error: ")]
    if code == REFUSED and errors:
        return RefusedJobError(f"{job.name}: {errors[-1]}")
    if code == -signal.SIGKILL:
        return JobError(f"{job.name}: killed by signal 9; if nobody did it, the machine ran out of memory")
    if code < 0:
        return JobError(f"{job.name}: killed by signal {-code} ({signal.Signals(-code).name})")
    said = errors[-1] if errors else (last[-1] if last else "it printed nothing")
    return JobError(f"{job.name}: ended with exit code {code}: {said}")
