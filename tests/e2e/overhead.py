"""What a pod costs more than a process of this machine, by part, from two runs of the same experiment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from statistics import median
from typing import Any

from tests.e2e.installation import Airflow

JOBS = ("base_eval", "candidate.customize", "candidate.evaluate")
TIMES = re.compile(r"([\d.]+) s (to be made|to a node|to start|of work|to collect)")


def overhead(airflow: Airflow, pods: str, local: str) -> dict[str, Any]:
    """Return the medians over all jobs, in seconds.

    Args:
        airflow: where both runs are.
        pods: run whose jobs were pods that had not to wait for a place, or did: that time is left out.
        local: run whose jobs were processes.

    Returns:
        {"pod", "process": seconds of a task; "overhead": the difference, "most": the largest; "by_part"}. Of the
        parts `task to pod` is from the task's start to the trigger's, `importing` is of Python in the pod before
        the job's own clock starts, and the job itself is left out.
    """
    found = [job for job in _jobs(airflow, pods) if job["parts"]]
    there = {job["key"]: job["seconds"] for job in _jobs(airflow, local)}
    parts = {
        part: round(median(job["parts"][part] for job in found), 2)
        for part in ("task to pod", "to be made", "to start", "importing", "to collect", "pod to task")
    }
    pod = [job["seconds"] - job["parts"]["to a node"] for job in found]
    more = [seconds - there[job["key"]] for seconds, job in zip(pod, found, strict=True)]
    return {
        "pod": round(median(pod), 2),
        "process": round(median(there[job["key"]] for job in found), 2),
        "overhead": round(median(more), 2),
        "most": round(max(more), 2),
        "jobs": len(found),
        "by_part": parts,
    }


def _jobs(airflow: Airflow, run_id: str) -> Iterable[dict[str, Any]]:
    for task in airflow.tasks(run_id):
        if task["task_id"] not in JOBS or task["state"] != "success" or task["try_number"] != 1:
            continue
        began, ended = (_seconds(task[name]) for name in ("start_date", "end_date"))
        key = (task["task_id"], task["rendered_map_index"])
        yield {"key": key, "seconds": ended - began, "parts": _parts(airflow, run_id, task, began, ended)}


def _parts(
    airflow: Airflow, run_id: str, task: dict[str, Any], began: float, ended: float
) -> dict[str, float]:
    lines = airflow.log_lines(run_id, task["task_id"], task["map_index"])
    told = next(((stamp, line) for stamp, line in lines if "to collect" in line), None)
    if told is None:
        return {}
    parts = {what: float(seconds) for seconds, what in TIMES.findall(told[1])}
    over = _seconds(told[0])
    job = _job_seconds(airflow, run_id, task)
    return {
        **parts,
        "importing": parts["of work"] - job,
        "task to pod": over - sum(parts.values()) - began,
        "pod to task": ended - over,
    }


def _job_seconds(airflow: Airflow, run_id: str, task: dict[str, Any]) -> float:
    """Return how long the job took by its own clock, without its imports."""
    stage = task["task_id"].rpartition(".")[2]
    folder = airflow.home / "artifacts/runs" / run_id / "jobs" / task["rendered_map_index"].replace(" ", "")
    made = json.loads((folder / f"{stage}.json").read_text())
    return float(made["ended_at"] - made["started_at"])


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
