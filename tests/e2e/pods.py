"""One pod of the runtime, accompanied by its trigger without an Airflow around it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from airflow.triggers.base import TaskSuccessEvent

from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.runtimes.kubernetes.job import PodJob
from flywheel.runtimes.kubernetes.job_trigger import JobTrigger
from flywheel.runtimes.kubernetes.operator import PodOperator
from flywheel.runtimes.kubernetes.trigger import Limits, PodTrigger

# The Airflow connection of the cluster.
CONNECTION = "test_cluster"


@dataclass
class Outcome:
    """How a pod ended, and what the task's log had."""

    good: bool
    sentence: str
    refused: bool
    mend: str = ""
    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] | None = None  # where the trigger ended the task itself

    def said(self, words: str) -> bool:
        """Return whether a line of the log has these words."""
        return any(words in line for line in self.lines)


def drill_job(
    namespace: str,
    image: str,
    drill: str,
    *,
    gpus: int = 0,
    name: str = "a",
    root: str = "s3://none/none",
    **kubernetes: Any,
) -> tuple[PodJob, Config]:
    """Return a drill job and its config, with these settings of runtime.kubernetes."""
    settings = {
        "connection": CONNECTION,
        "namespace": namespace,
        "image": image,
        "image_pull_policy": "IfNotPresent",
        "requests": {"cpu": "50m", "memory": "32Mi"},
        "limits": {"cpu": "1", "memory": "64Mi"},
        "environment": {"DRILL": drill},
        "log_seconds": 0.5,
        **kubernetes,
    }
    data = {
        "nims": [{"model_name": f"drill/{name}", "name": name, "gpus": gpus}],
        "artifacts": {"root": "s3://none/none"},
        "runtime": {"type": "kubernetes", "kubernetes": settings},
    }
    config = validate_config(data, "test")
    spec = f"{root}/runs/r/jobs/{name}@5/customize.spec.json"
    return PodJob("customize", "customize", config.students[0], 5, "r", "runs/r", spec, root), config


def drill_trigger(*arguments: Any, attempt: int = 1, **settings: Any) -> PodTrigger:
    """Return the trigger of a drill job's pod."""
    job, config = drill_job(*arguments, **settings)
    pods = config.runtime.kubernetes
    manifest = _operator(job).describe(job, config)
    manifest["metadata"]["labels"]["try_number"] = str(attempt)
    return PodTrigger(pods.connection, manifest, Limits.of(pods).__dict__, pods.keep_failed_pods)


def drill_job_trigger(*arguments: Any, **settings: Any) -> JobTrigger:
    """Return the trigger of a drill job as its task makes it."""
    job, config = drill_job(*arguments, **settings)
    ti = SimpleNamespace(
        dag_id="d", task_id="customize", run_id="r", map_index=0, try_number=1, start_date=None
    )
    context = {"ti": ti, "run_id": "r", "dag": None}
    operator = _operator(job)
    operator.describe(job, config, context)
    return operator.trigger(context, config.runtime.kubernetes, {"root": job.root, "path": job.result})


def _operator(job: PodJob) -> PodOperator:
    return PodOperator(stage=job.stage, student=job.student.name, size=job.size, task_id=job.stage)


async def accompany(trigger: PodTrigger | JobTrigger) -> Outcome:
    """Run a trigger to its event."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("flywheel.runtimes.kubernetes")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        async for event in trigger.run():
            if isinstance(event, TaskSuccessEvent):
                return Outcome(True, "", False, lines=lines, facts=(event.xcoms or {})["return_value"])
            return Outcome(**event.payload, lines=lines)
    finally:
        logger.removeHandler(handler)
    raise AssertionError("the trigger ended without an event")


def run_pod(*arguments: Any, **settings: Any) -> Outcome:
    """Run a drill job in a pod to its end."""
    return asyncio.run(accompany(drill_trigger(*arguments, **settings)))
