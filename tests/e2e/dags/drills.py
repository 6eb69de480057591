"""DAGs of the drills: known faults of deferrable pods, played with our operator and with Airflow's own; and many
candidates at once. What their pods do is in tests/e2e/drill.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG

from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.runtimes.kubernetes.operator import PodOperator
from flywheel.runtimes.kubernetes.pods import PodJob, pod_arguments

# {"pods": settings of runtime.kubernetes, "candidates": how many}
SETTINGS = json.loads((Path(os.environ["FLYWHEEL_HOME"]) / "drills.json").read_text())
ROOT = "s3://none/none"

# What each pod does, and what its task is told.
FAULTS: dict[str, dict[str, Any]] = {
    "killed": {"drill": "sleep:600"},
    "timeout": {"drill": "sleep:600", "execution_timeout": timedelta(seconds=45)},
    "started": {"drill": "sleep:75,say:done", "start_seconds": 20},
    "retried": {"drill": "exit:3", "retries": 1, "keep": True},
    "collected": {"drill": "sleep:15"},
}


def config(drill: str, keep: bool = False, start_seconds: int = 600, gpus: int = 0) -> Config:
    """Return a config whose pods do a drill."""
    pods = {
        **SETTINGS["pods"],
        "environment": {"DRILL": drill},
        "keep_failed_pods": keep,
        "start_minutes": start_seconds / 60,
    }
    return validate_config(
        {
            "nims": [{"model_name": "drill/a", "name": "a", "gpus": gpus}],
            "artifacts": {"root": ROOT},
            "runtime": {"type": "kubernetes", "kubernetes": pods},
        },
        "drills",
    )


def job(made: Config, run: str, size: int = 1) -> PodJob:
    """Return a job of a run."""
    spec = f"{ROOT}/runs/{run}/jobs/a@{size}/customize.spec.json"
    return PodJob("customize", "customize", made.students[0], size, run, f"runs/{run}", spec, ROOT)


def ours(name: str, *, drill: str, keep: bool = False, start_seconds: int = 600, **arguments: Any) -> Any:
    """Return a drill's task with our operator."""
    made = config(drill, keep, start_seconds)
    return PodOperator(job=job(made, name), config=made, task_id="pod", **arguments)


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


class Candidate(PodOperator):
    """A pod by the number of its candidate alone."""

    template_fields = ()

    def __init__(self, *, number: int, **arguments: Any) -> None:
        made = config("say:done", gpus=1)
        super().__init__(job=job(made, "scale", number + 1), config=made, **arguments)
        self.number = number


with DAG(dag_id="scale", schedule=None, catchup=False, max_active_tasks=64):
    numbers = list(range(SETTINGS["candidates"]))
    Candidate.partial(task_id="customize", retries=1).expand(number=numbers)
