"""Live progress of a run in the terminal: the stages, and table 1 as it fills. Plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flywheel.common.errors import ArtifactError
from flywheel.common.redaction import clean
from flywheel.jobs.result import EvaluateResult
from flywheel.laptop.api import TaskState
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.workloads.metrics import main_metric

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

STAGES = (
    "plan",
    "label",
    "ingest",
    "curate",
    "base_eval",
    "icl_eval",
    "champion_eval",
    "customize",
    "evaluate",
    "score",
    "review",
    "promote",
)
_JOBS = ("base_eval", "icl_eval", "champion_eval", "customize", "evaluate")
_ENDED = ("success", "failed", "upstream_failed", "skipped", "removed")
_ACTIVE = ("running", "queued", "scheduled", "up_for_retry", "restarting", "awaiting_input", "deferred")


class RunProgress:
    """Shows how far a run is.

    Args:
        console: a terminal gets a live picture, anything else a line for each task that ends.
        run: whose results are shown as they come.
        started_at: from when time is counted, by `time.monotonic`.
    """

    def __init__(self, console: Console, run: Run, started_at: float) -> None:
        from rich.live import Live

        self.console = console
        self.run = run
        self.started_at = started_at
        self.message = "starting Airflow"
        self.tasks: Sequence[TaskState] = ()
        self._plan: Plan | None = None
        self._jobs_began: float | None = None
        self._scores: dict[str, float] = {}
        self._metric = main_metric("classification")
        self._said = ""
        self._told: set[tuple[str, int, str, int]] = set()
        self._live = (
            Live(get_renderable=self._picture, console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> RunProgress:
        if self._live:
            self._live.start()
        self.say(self.message)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, message: str) -> None:
        """Show what is going on."""
        self.message = message
        if message != self._said:
            self._said = message
            if not self._live:
                self.console.print(f"{self._clock()} {clean(message)}", highlight=False, soft_wrap=True)

    def update(self, tasks: Sequence[TaskState]) -> None:
        """Show the tasks as they are now."""
        self.tasks = tasks
        for task in tasks:
            key = (task.full_id, task.map_index, task.state, task.attempt)
            if task.state in (*_ENDED, "up_for_retry", "awaiting_input") and key not in self._told:
                self._told.add(key)
                self._look_at_score(task)
                if not self._live:
                    self._tell(task)
        if tasks:
            active = [task.name for task in tasks if task.state == "running"]
            self.message = ", ".join(active[:4])

    def jobs_are_running(self) -> bool:
        """Return whether students were being trained or asked at the last look."""
        return any(task.task in _JOBS and task.state == "running" for task in self.tasks)

    def needs_the_rest(self) -> bool:
        """Return whether a task waits in the triggerer or for a person, who may change files meanwhile."""
        return any(task.state in ("deferred", "awaiting_input") for task in self.tasks)

    def seconds_left(self) -> float | None:
        """Return an estimate of the time to the end of all jobs, from the jobs that are done."""
        plan = self.plan()
        if plan is None:
            return None
        sizes = {candidate.name: candidate.size for candidate in self.run.candidates}
        jobs = [task for task in self.tasks if task.task in ("customize", "evaluate") and task.index in sizes]
        if jobs and self._jobs_began is None:
            self._jobs_began = time.monotonic()
        done = sum(_weight(task.task, sizes[task.index]) for task in jobs if task.state in _ENDED)
        total = sum(_weight("customize", n) + _weight("evaluate", n) for n in sizes.values())
        if not done or self._jobs_began is None:
            return None
        return (time.monotonic() - self._jobs_began) * (total - done) / done

    def plan(self) -> Plan | None:
        """Return the run's plan, once it is made."""
        if self._plan is None:
            try:
                self._plan = self.run.plan
            except ArtifactError:
                return None
        return self._plan

    def _look_at_score(self, task: TaskState) -> None:
        if task.task == "evaluate" and task.state == "success":
            folder = task.index.replace(" @ ", "@")
            result = self.run.find(f"jobs/{folder}/evaluate", EvaluateResult)
            if result:
                self._metric = main_metric(result.workload_type)
                self._scores[task.index] = result.scores[self._metric.name]

    def _tell(self, task: TaskState) -> None:
        seconds = f" ({task.seconds:.1f} s)" if task.seconds else ""
        score = f", {self._metric.short} {self._scores[task.index]:.3f}" if task.index in self._scores else ""
        words = {
            "success": "done",
            "upstream_failed": "not started: what it needs failed",
            "up_for_retry": f"failed, attempt {task.attempt}; it is tried again",
            "awaiting_input": "waits for an answer in the UI, under Required Actions",
        }
        text = f"{task.name}: {words.get(task.state, task.state)}{seconds}{score}"
        self.console.print(f"{self._clock()} {clean(text)}", highlight=False, soft_wrap=True)

    def _clock(self) -> str:
        return f"{time.monotonic() - self.started_at:6.1f} s"

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for stage in STAGES:
            if stage == "icl_eval" and not any(task.task == stage for task in self.tasks):
                continue  # of configs with icl_config alone
            table.add_row(*self._stage(stage))
        left = self.seconds_left()
        note = f", about {left:.0f} s of jobs left" if left and left > 1 else ""
        now = Text(f"{self._clock().strip()}  {self.message}{note}")
        parts: list[RenderableType] = [Spinner("dots", now)]
        if self.tasks:
            parts += [table]
        if self._scores:
            parts += [Text(), self._scores_table()]
        return Group(*parts)

    def _stage(self, stage: str) -> tuple[str, str, str]:
        """Return sign, name and count of a stage."""
        tasks = [task for task in self.tasks if task.task == stage]
        mapped = [task for task in tasks if task.map_index >= 0]
        ended = sum(task.state in _ENDED for task in tasks)
        failed = sum(task.state in ("failed", "upstream_failed") for task in tasks)
        total = len(mapped)
        if any(task.state in _ACTIVE for task in tasks):
            sign = "[cyan]>[/]"
        elif tasks and ended == len(tasks):
            sign = "[red]x[/]" if failed == len(tasks) else "[green]+[/]"
        else:
            sign = " "
        count = f"{ended}/{total}" if total else ""
        if failed:
            count += f" [red]{failed} failed[/]"
        return sign, stage, count

    def _scores_table(self) -> RenderableType:
        """Return table 1 as far as it is known."""
        from rich.table import Table

        plan = self.plan()
        assert plan is not None
        table = Table("training records", *plan.students, title=self._metric.title, title_justify="left")
        for size in sorted({candidate.size for candidate in self.run.candidates}):
            names = [f"{student} @ {size}" for student in plan.students]
            cells = [f"{self._scores[name]:.3f}" if name in self._scores else "…" for name in names]
            table.add_row(f"{size:,}", *cells)
        return table


def _weight(task: str, size: int) -> int:
    """Return about how long a job takes, in no unit: each has a constant part, training grows with size."""
    return 500 + size if task == "customize" else 1000
