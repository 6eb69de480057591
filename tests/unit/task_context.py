"""What Airflow gives a task of a run, without Airflow around it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from flywheel.runs.run import Run
from flywheel.runtimes.context import share_run

NOON = datetime(2019, 3, 2, 12, tzinfo=UTC)


class TaskInstance:
    """The XComs of one run."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str = "review") -> Any:
        assert task_ids == ("review" if key == "review" else "plan")
        return self.pushed[key]


def context_of(run: Run) -> dict[str, Any]:
    context = {"ti": TaskInstance(), "task_instance": SimpleNamespace(id="1")}
    share_run(context, run, run.root.url)
    return context
