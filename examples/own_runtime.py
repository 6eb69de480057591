"""A runtime of one's own: jobs at the lowest priority of this machine, one after the other.

A job is a command on a SPEC, whatever runs it; a runtime says where. `run` and `kill` are all that it has to
have. In a config file: `runtime: {type: "examples.own_runtime:Idle"}`, and the DAG's jobs run there.

    python -m examples.own_runtime [FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from examples.own_data import config_of
from examples.wheel import folder_of, tell, turn
from flywheel.common.errors import JobError
from flywheel.config import Config
from flywheel.runtimes import Job, RefusedJobError, Runtime
from flywheel.runtimes.base import REFUSED


class Idle(Runtime):
    """Runs each job as a process that yields to every other one."""

    is_here = True
    done: ClassVar[dict[str, int]] = {}  # lines that each job printed, for the figure below

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Run a job to its end, handing each line it prints to `log` at once."""
        command = ["nice", "-n", "19", sys.executable, "-m", "flywheel.runtimes.job_command", *job.command]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as self._process:
            assert self._process.stdout is not None
            lines = []
            for line in self._process.stdout:
                lines.append(line.rstrip())
                log(lines[-1])
        code = self._process.returncode
        if code:
            kind = RefusedJobError if code == REFUSED else JobError  # a refused one is not tried again
            raise kind(f"{job.name}: {lines[-1] if lines else f'ended with exit code {code}'}")
        self.done[job.name] = len(lines)

    def kill(self) -> None:
        """End the job that is running."""
        if self._process is not None:
            self._process.terminate()


def main(folder: Path) -> int:
    """Turn the wheel of examples.own_data with its jobs in this runtime; return how many jobs it ran."""
    config = config_of(folder) | {"sizes": [60], "runtime": {"type": "examples.own_runtime:Idle"}}
    report = turn(folder, config, night=datetime(2025, 11, 1, tzinfo=UTC))
    # Where this file is the program itself, the config has imported it once more, by its name.
    jobs = sys.modules["examples.own_runtime"].Idle.done
    tell(report)
    tell(f"\n{len(jobs)} jobs ran at the lowest priority: {', '.join(jobs)}.")
    return len(jobs)


if __name__ == "__main__":
    main(folder_of("own_runtime"))
