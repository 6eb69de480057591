"""Many candidates at once, of a job that does next to nothing."""

from __future__ import annotations

from airflow.sdk import DAG
from drill_jobs import SETTINGS, PodTask

with DAG(dag_id="scale", schedule=None, catchup=False, max_active_tasks=64):
    candidates = PodTask.partial(
        task_id="customize", drill="say:done,result", run="scale", settings={"gpus": 1}, retries=1
    )
    candidates.expand(number=list(range(1, SETTINGS["candidates"] + 1)))
