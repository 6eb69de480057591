"""DAGs of the drills: known faults of deferrable pods, played with our operator and with Airflow's own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from drill_jobs import PodTask, config, job

from flywheel.runtimes.kubernetes.pods import pod_arguments

# What each pod does, and what its task is told.
FAULTS: dict[str, dict[str, Any]] = {
    "killed": {"drill": "sleep:600"},
    "timeout": {"drill": "sleep:600", "execution_timeout": timedelta(seconds=45)},
    "started": {"drill": "sleep:75,say:done", "start_seconds": 20},
    "retried": {"drill": "exit:3", "retries": 1, "keep": True},
    "collected": {"drill": "sleep:15"},
}


def ours(name: str, *, drill: str, keep: bool = False, start_seconds: int = 600, **arguments: Any) -> Any:
    """Return a drill's task as flywheel has it done."""
    settings = {"keep": keep, "start_seconds": start_seconds}
    return PodTask(task_id="pod", drill=drill, run=name, settings=settings, **arguments)


def stock(name: str, *, drill: str, keep: bool = False, start_seconds: int = 600, **arguments: Any) -> Any:
    """Return a drill's task with Airflow's own operator, and the same pod."""
    made = config(drill, keep, start_seconds)
    pod = {**pod_arguments(job(made, name), made), "random_name_suffix": True}
    return KubernetesPodOperator(
        **pod,
        task_id="pod",
        deferrable=True,
        startup_timeout_seconds=start_seconds,
        schedule_timeout_seconds=start_seconds,
        on_finish_action="keep_pod" if keep else "delete_pod",
        **arguments,
    )


for operator in (ours, stock):
    for fault, told in FAULTS.items():
        name = f"{fault}_{operator.__name__}"
        retry = {"retries": 0, "retry_delay": timedelta(seconds=2)}
        with DAG(dag_id=name, schedule=None, catchup=False, default_args=retry):
            operator(name, **told)
