"""A runtime of one's own, as docs/architecture.md shows it: `runtime: {type: tests.unit.toy_runtime:ToyRuntime}`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import ClassVar

from airflow.sdk import BaseOperator

from flywheel.common.errors import JobError
from flywheel.runtimes import Job, Runtime


class ToySweepOperator(BaseOperator):
    """Has nothing to take away."""

    def execute(self, context: object) -> None:
        """Do nothing."""


class ToyRuntime(Runtime):
    """Runs jobs by the program of `runtime.options`, one at a time, and remembers them."""

    jobs: ClassVar[list[str]] = []

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Run a job."""
        done = subprocess.run(
            [*self.config.runtime.options["program"], *job.command],
            capture_output=True,
            text=True,
            check=False,
        )
        for line in done.stdout.splitlines():
            log(line)
        if done.returncode:
            raise JobError(f"{job.name}: {done.stderr.strip()}")
        self.jobs.append(job.name)

    def kill(self) -> None:
        """Leave a job to end by itself: it is short."""

    def sweep(self) -> BaseOperator:
        """Return a task that ends every run."""
        return ToySweepOperator(task_id="sweep")
