"""What went wrong in a run, for the terminal: the tasks that failed, and the ends of their logs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from flywheel.common.redaction import clean
from flywheel.laptop.api import TaskState
from flywheel.laptop.home import airflow_home
from flywheel.runs.names import log_folder

TAIL_LINES = 15


def log_path(run_id: str, task: TaskState) -> Path:
    """Return the log file of a task's last try."""
    folder = airflow_home() / "logs" / log_folder(run_id) / f"task_id={task.full_id}"
    if task.map_index >= 0:
        folder /= f"map_index={task.map_index}"
    return folder / f"attempt={task.attempt}.log"


def describe(run_id: str, tasks: Iterable[TaskState]) -> list[str]:
    """Return lines that name each failed task, with its log's path and end."""
    lines: list[str] = []
    for task in tasks:
        if task.is_failed:
            path = log_path(run_id, task)
            lines += [f"{task.name} failed; {path}", *(f"    {line}" for line in tail(path))]
    return lines


def tail(path: Path, count: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a task's log as text that a terminal may show; it is one JSON event a line."""
    try:
        raw = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return [f"(no log: {error})"]
    lines: list[str] = []
    for line in raw:
        try:
            event = json.loads(line)
        except ValueError:
            lines.append(line)
            continue
        text = str(event.get("event", ""))
        if not text.startswith(("::group::", "::endgroup::")):
            lines += f"{str(event.get('level', '')).upper():7s} {text}".splitlines()
        details = event.get("error_detail") or ()
        lines += [f"{detail.get('exc_type')}: {detail.get('exc_value')}" for detail in details]
    return [clean(line) for line in lines[-count:]]
