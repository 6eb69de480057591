"""LocalRuntime: jobs are processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flywheel.config import Config
from flywheel.runtimes.base import Job, Runtime
from flywheel.runtimes.checks import Finding, version
from flywheel.runtimes.local.processes import Processes

if TYPE_CHECKING:
    from flywheel.runtimes.local.operator import ProcessOperator


class LocalRuntime(Runtime):
    """Runs jobs as processes of this machine, as many at once as there are places."""

    is_here = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._processes = Processes(config.runtime)

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Run a job in a process of its own."""
        self._processes.run(job, log)

    def kill(self) -> None:
        """End the job's processes."""
        self._processes.kill()

    def warm_up(self) -> None:
        """Have the server that jobs are forks of import what they need."""
        self._processes.warm_up()

    @property
    def operator(self) -> type[ProcessOperator]:
        """The class of a job's task."""
        from flywheel.runtimes.local.operator import ProcessOperator

        return ProcessOperator

    def check(self) -> Iterator[Finding]:
        """Look for the students' libraries, their weights, and a GPU where one is asked for."""
        missing = [name for name in ("torch", "transformers", "peft") if not version(name)]
        if missing and not self.config.runtime.python:
            yield Finding("students", "error", f"{', '.join(missing)} not installed", "make install")
        yield from super().check()
        if version("torch"):
            yield _gpus(max(student.gpus for student in self.config.students))


def _gpus(wanted: int) -> Finding:
    from flywheel.students.loading import gpu_names

    names = gpu_names()
    if names:
        return Finding("GPU", "ok", f"{len(names)}: {', '.join(names)}")
    if wanted:
        return Finding(
            "GPU",
            "warning",
            f"none here, and a student asks for {wanted}: it will train on the CPU, slowly",
            "use smaller students, or a machine with a GPU",
        )
    return Finding("GPU", "ok", "none here, none asked for")
