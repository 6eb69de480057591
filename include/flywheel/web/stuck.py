"""Whether a run is stuck: for `notifications.stuck_minutes` nothing of it began or ended, and nothing works.

A task works while its process runs, or its pod or service does; its own timeouts end it else. What is left
is told as the one thing that the run waits for: Airflow's components, a person's answer, a place for a pod, a
slot.

The page asks when it is looked at. A thread of the API server looks by itself, and tells notifications once:
it is the process that is there when scheduler, triggerer or workers are not.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from flywheel.common.utc import to_minute
from flywheel.config.schema import NotificationsConfig
from flywheel.orchestration.notifications import notify
from flywheel.runs.failures import RunFailure, first_to_tell
from flywheel.runs.names import airflow_run
from flywheel.runs.run import Run
from flywheel.runs.waits import wait_of
from flywheel.web import airflow_runs, run_files, settings
from flywheel.web.airflow_runs import WAITING_STATES, AirflowRun, AirflowTask

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
_WORKS = ("running", "restarting", "up_for_retry")
_WAITS = ("scheduled", "queued", "deferred", "up_for_reschedule", *WAITING_STATES)


def stuck_of(run: AirflowRun, folder: Run, tasks: list[AirflowTask]) -> RunFailure | None:
    """Return what a run that goes on is stuck at, with what to do; None where it is not stuck.

    Args:
        tasks: of the run.
    """
    if run.is_done:
        return None
    minutes = _notifications(run, folder).stuck_minutes
    times = [time for task in tasks for time in (task.started_at, task.ended_at, task.waits_since) if time]
    moved = max([run.begun_at, *times])
    if datetime.now(UTC) - moved < timedelta(minutes=minutes) or any(task.state in _WORKS for task in tasks):
        return None
    found = _explain(run, folder, [task for task in tasks if task.state in _WAITS])
    if found is None:
        return None
    task, sentence, mend = found
    return RunFailure(
        stage=task.task_id.rsplit(".", 1)[-1] if task else "run",
        job=f"{task.task_id.rsplit('.', 1)[-1]} {task.index}" if task and task.index else "",
        sentence=f"{sentence}; nothing of the run has moved since {to_minute(int(moved.timestamp()))}",
        mend=mend,
        at=moved.isoformat(),
        task_id=task.task_id if task else "",
        map_index=task.map_index if task else -1,
        try_number=max(1, task.try_number) if task else 1,
        is_stuck=True,
    )


def _explain(
    run: AirflowRun, folder: Run, waiting: list[AirflowTask]
) -> tuple[AirflowTask | None, str, str] | None:
    """Return which task a run waits for, why, and what to do; None where a task of it works."""
    first = waiting[0] if waiting else None
    airflow = airflow_runs.airflow_of_now(run.run_id)
    if airflow.is_paused:
        why = "its DAG is paused, so Airflow starts no task of it"
        return first, why, "Let the DAG go on, in Airflow's UI."
    if not airflow.has_scheduler:
        why = "Airflow's scheduler gives no sign of life"
        return first, why, "Start it (`airflow scheduler`); the end of its log says why it ended."
    for task in waiting:
        if task.task_id in airflow.asked:
            return task, "a person was asked and has not answered", _ANSWER
    deferred = [task for task in waiting if task.state == "deferred"]
    if deferred and not airflow.has_triggerer:
        why = "it waits in Airflow's triggerer, which gives no sign of life"
        return deferred[0], why, "Start it (`airflow triggerer`); the end of its log says why it ended."
    waits = [wait_of(folder, task.task_id, task.map_index) for task in deferred]
    told = [wait for wait in waits if wait is not None]
    if len(told) < len(deferred):
        return None
    if told:
        return deferred[0], told[0].sentence, told[0].mend
    if first is not None and first.state == "queued":
        return first, "it is handed to Airflow's executor, and no worker takes it", _WORKERS
    if first is not None:
        taken, slots = airflow.pools.get(first.pool, (0, 0))
        why = f"it waits for one of the {slots} slots of pool {first.pool}, {taken} of them taken"
        return first, why, _SLOTS
    if run.state == "queued":
        why = "it waits for its turn behind other runs of its DAG"
        return None, why, "See to those, which are before it."
    return (
        None,
        "no task of it runs or waits",
        "See the scheduler's log; then clear the task that comes next.",
    )


_ANSWER = (
    "Answer it under Required Actions in Airflow, or on the page; without an answer it is a no after "
    "promotion.approval_timeout_hours."
)
_WORKERS = "See that workers run and have a free slot ([core] parallelism, [celery] worker_concurrency)."
_SLOTS = "Let what holds them end, or give the pool more: Airflow's UI, Admin, Pools."


def _notifications(run: AirflowRun, folder: Run) -> NotificationsConfig:
    config = folder.plan.config if folder.is_planned else settings.config_of(run.experiment)
    return config.notifications


def tell_stuck_runs() -> None:
    """Tell those who want to know of each run that is stuck, once for each task that it is stuck at."""
    for run in airflow_runs.all_runs():
        if run.is_done:
            continue
        folder = run_files.run_of(run)
        found = stuck_of(run, folder, airflow_runs.tasks_of(run.run_id))
        what = f"stuck-{run.clear_number}-{found.task_id}" if found else ""
        if found is None or folder.was_cancelled(run.clear_number) or not first_to_tell(folder, what):
            continue
        log.warning("run %s: %s", run.run_id, found.told)
        dag_id, run_id = airflow_run(run.run_id)
        task = SimpleNamespace(task_id=found.task_id, dag_id=dag_id, run_id=run_id)
        context = {"run_id": run_id, "ti": task}
        notify(_notifications(run, folder).on_stuck, context, told=found.told, **found.facts)


def _look() -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            tell_stuck_runs()
        except Exception:
            log.exception("whether runs are stuck could not be seen; it is looked at again")


def look_by_itself() -> None:
    """Start the thread that looks and tells."""
    threading.Thread(target=_look, name="flywheel-stuck", daemon=True).start()
