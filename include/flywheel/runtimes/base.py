"""What a job is, and what every runtime offers."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flywheel.common.errors import JobError
from flywheel.common.redaction import clean
from flywheel.config import Config, Student
from flywheel.runtimes.checks import Finding, weights

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from flywheel.runs.plan import Plan
    from flywheel.runs.run import Run
    from flywheel.runtimes.job_operator import JobOperator

JobKind = Literal["customize", "evaluate", "annotate-shard"]
Stage = Literal["base_eval", "icl_eval", "champion_eval", "customize", "evaluate", "annotate"]

# Exit codes of `flywheel customize` and `flywheel evaluate` besides 0. A refused job would be refused again:
# what it was given is wrong. A crashed or killed one may do better at the next try.
REFUSED = 1
CRASHED = 3

# A job that has to end is asked to (SIGTERM), so that it can save its state, and ended after so long.
GRACE_SECONDS = 5.0

# A network file system may keep what is in a folder for so long before it looks again.
NFS_SECONDS = 60.0

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
    """One run of `flywheel customize SPEC`, or of `evaluate` or `annotate-shard`.

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

    @classmethod
    def of(cls, kind: JobKind, spec: str, name: str, student: Student) -> Job:
        """Return the job of a student."""
        from flywheel.jobs.weights import local_folder

        from_hub = bool(student.weights) and local_folder(student.weights) is None
        return cls(kind, spec, name, student.gpus, from_hub)

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments of `flywheel`."""
        return (self.kind, self.spec)


class Runtime(ABC):
    """Where the jobs of a config run, and all that is particular to that place.

    A runtime is one folder: this class, and what its methods return. What costs time to import, Airflow too,
    is imported by the method that needs it. `run` and `kill` are enough for a runtime of one's own; a job's
    task then holds its worker slot while it runs. See docs/architecture.md.

    Attributes:
        is_here: jobs run on this machine, with its Python, its GPUs and its folders.
        defers: tasks wait in the triggerer, and hold no worker slot meanwhile.
    """

    is_here: ClassVar[bool] = False
    defers: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config

    # -- jobs ----------------------------------------------------------------------------------------

    @abstractmethod
    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Run a job to its end from this process, handing each line it prints to `log` at once.

        Raises:
            RefusedJobError: the job says that what it was given is wrong.
            JobError: it failed, was killed or ran out of time; the message says which and why.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the job that `run` is running, with all its processes. May be called by a signal handler."""

    def planned(self, plan: Plan) -> Plan:
        """Return a plan as jobs need it here: with the commits of weights of the Hub."""
        from flywheel.runs.plan import with_pinned_weights

        return with_pinned_weights(plan)

    def warm_up(self) -> None:  # noqa: B027  most have nothing to do
        """Get ready for the first job, in the background: a student is about to be trained."""

    # -- tasks of the DAG ----------------------------------------------------------------------------

    @property
    def operator(self) -> type[JobOperator]:
        """The class of a job's task. Processes that others are forked from import it ahead."""
        from flywheel.runtimes.job_operator import JobOperator

        return JobOperator

    def arguments(self) -> dict[str, Any]:
        """Return arguments of `operator` that the config gives to every job's task."""
        return {}

    def task(self, stage: Stage, **arguments: Any) -> JobOperator:
        """Return the task of a job.

        Args:
            stage: which job.
            arguments: student, size, and any of the operator's own: they go before what the config says.
        """
        return self.operator(**self._told(stage, arguments))

    def tasks(self, stage: Stage, **arguments: Any) -> Any:
        """Return the task of a job that is to be expanded over students; arguments as for `task`."""
        return self.operator.partial(**self._told(stage, arguments))

    def _told(self, stage: Stage, given: dict[str, Any]) -> dict[str, Any]:
        from flywheel.runtimes.job_operator import described

        own = {"runtime": self.config.runtime.type, "given": sorted(given)}
        return {**self.arguments(), **described(stage), **own, **given}

    def shards(self) -> Any:
        """Return the tasks that label the shards of a history, to be expanded over their specs."""
        from flywheel.runtimes.shard_operator import SHARDS, ShardOperator

        return ShardOperator.partial(**SHARDS)

    def sweep(self) -> BaseOperator | None:
        """Return the task, after all jobs, that takes away what they have left; None: they leave nothing."""
        return None

    def serve(self) -> BaseOperator | None:
        """Return the task, after `promote`, that has the champion served; None: `flywheel serve` does."""
        return None

    def clean_up(self) -> BaseOperator | None:
        """Return the task at a run's very end that takes away what nobody needs; None: nothing is left."""
        return None

    # -- for people ----------------------------------------------------------------------------------

    def serve_now(self, run: Run, log: Callable[[str], None]) -> None:  # noqa: B027  as above
        """Do from this process what the task of `serve` does for a run."""

    def check(self) -> Iterator[Finding]:
        """Say what `flywheel doctor` finds: what jobs need here, and whether it is there."""
        yield from weights(self.config, is_here=self.is_here)


def check_ending(event: Mapping[str, Any]) -> None:
    """Raise where a trigger's event, {"good", "sentence", "refused"}, says that a job did not end well.

    Args:
        event: it may have "mend" too: what to do, as the end of its sentence says it.

    Raises:
        RefusedJobError: the job said that what it was given is wrong.
        JobError: it ended in another way than well.
    """
    if event["refused"]:
        raise RefusedJobError(event["sentence"])
    if not event["good"]:
        raise JobError(event["sentence"], mend=event.get("mend", ""))


def await_result(is_there: Callable[[], bool], event: Mapping[str, Any], job: str, root: str) -> None:
    """Wait for the result of a job that has ended: it counts, whatever else has become of the job.

    Args:
        event: how it ended: {"good", "sentence", "refused"}.
        job: its name for people.
        root: URL of the artifact root that the result is to be in.

    Raises:
        RefusedJobError, JobError: it did not end well, or its result does not appear.
    """
    deadline = time.monotonic() + (NFS_SECONDS if event["good"] else 0)
    while not is_there():
        if time.monotonic() > deadline:
            check_ending(event)
            raise JobError(
                f"{job}: it ended well, but its result is not in {root}; see that jobs and Airflow have the "
                "same artifact root: one volume at the same place, or one URL"
            )
        time.sleep(0.5)


def log_job_line(log: Any, line: str) -> None:
    """Hand a line that a job printed to a log, at the level that it names."""
    line = clean(line)
    for prefix, level in _LEVELS.items():
        if line.startswith(prefix):
            log.log(level, "%s", line.removeprefix(prefix))
            return
    log.info("%s", line)
