"""What stands in for a runtime while the config file cannot be read: a run that has begun goes on.

It has its frozen plan, and the file may be in the middle of an edit. So its tasks do what the operator of the
plan's runtime does, with what that config gives it.
"""

from __future__ import annotations

from typing import Any

from flywheel.runtimes import open_runtime
from flywheel.runtimes.base import Stage
from flywheel.runtimes.context import run_of
from flywheel.runtimes.job_operator import JobOperator, described


class PlannedJobOperator(JobOperator):
    """Runs a job as the task of the plan's runtime does."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Have the operator of the plan's runtime do it."""
        return self._planned(context).execute(context)

    def resume(self, context: Any, event: dict[str, Any] | str) -> dict[str, Any]:
        """Go on as the operator of the plan's runtime does."""
        return self._planned(context).resume(context, event)

    def on_kill(self) -> None:
        """End what was begun."""
        if self._one is not None:
            self._one.on_kill()

    _one: JobOperator | None = None

    def _planned(self, context: Any) -> JobOperator:
        runtime = open_runtime(run_of(context).plan.config)
        self._one = runtime.task(self.stage, student=self.student, size=self.size, task_id=self.task_id)
        self._one.execution_timeout = self.execution_timeout
        return self._one


class PlannedRuntime:
    """Has the jobs' tasks of a DAG whose config cannot be read; what a run leaves is swept by a later one."""

    operator = PlannedJobOperator

    def task(self, stage: Stage, **arguments: Any) -> JobOperator:
        """Return the task of a job."""
        return PlannedJobOperator(**described(stage), **arguments)

    def tasks(self, stage: Stage, **arguments: Any) -> Any:
        """Return the task of a job that is to be expanded over students."""
        return PlannedJobOperator.partial(**described(stage), **arguments)

    def sweep(self) -> None:
        """Return no task."""

    def serve(self) -> None:
        """Return no task."""

    def clean_up(self) -> None:
        """Return no task."""
