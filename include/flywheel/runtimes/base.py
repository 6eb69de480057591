"""What a job is, and what every runtime offers. No Airflow in here: a runtime knows jobs, not tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flywheel.common.errors import JobError
from flywheel.common.redaction import clean

JobKind = Literal["customize", "evaluate"]

# Exit codes of `flywheel customize` and `flywheel evaluate` besides 0. A refused job would be refused again:
# what it was given is wrong. A crashed or killed one may do better at the next try.
REFUSED = 1
CRASHED = 3

# A job that has to end is asked to (SIGTERM), so that it can save its state, and ended after so long.
GRACE_SECONDS = 5.0

# How a line of a job begins (see flywheel.runtimes.job_command), and the level it has in the task's log.
_LEVELS = {
    "INFO ": logging.INFO,
    "DEBUG ": logging.DEBUG,
    "WARNING ": logging.WARNING,
    "ERROR ": logging.ERROR,
    "error: ": logging.ERROR,
}


class RefusedJobError(JobError):
    """A job that said what is wrong with what it was given."""


@dataclass(frozen=True)
class Job:
    """One run of `flywheel customize SPEC` or `flywheel evaluate SPEC`.

    Attributes:
        kind: the command.
        spec: path or URL of the job's `.spec.json`; the result is written beside it.
        name: for people, such as `customize 1b @ 5000`.
        gpus: how many GPUs the student asks for, where there are any.
        from_hub: the student's weights are a Hub id: fetching them may take a token.
    """

    kind: JobKind
    spec: str
    name: str
    gpus: int = 0
    from_hub: bool = False

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments of `flywheel`."""
        return (self.kind, self.spec)


class Runtime(Protocol):
    """A place where jobs run."""

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Run a job to its end, handing each line it prints to `log` at once.

        Raises:
            RefusedJobError: the job says that what it was given is wrong.
            JobError: it failed, was killed or ran out of time; the message says which and why.
        """

    def kill(self) -> None:
        """End the job that `run` is running, with all its processes. May be called by a signal handler."""


def log_job_line(log: Any, line: str) -> None:
    """Hand a line that a job printed to a log, at the level that it names."""
    line = clean(line)
    for prefix, level in _LEVELS.items():
        if line.startswith(prefix):
            log.log(level, "%s", line.removeprefix(prefix))
            return
    log.info("%s", line)
