"""One pod of the runtime, accompanied by its trigger without an Airflow around it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from flywheel.config.loading import validate_config
from flywheel.runtimes.kubernetes.operator import PodOperator
from flywheel.runtimes.kubernetes.pods import PodJob
from flywheel.runtimes.kubernetes.trigger import PodTrigger

# The Airflow connection of the cluster.
CONNECTION = "test_cluster"


@dataclass
class Outcome:
    """How a pod ended, and what the task's log had."""

    good: bool
    sentence: str
    refused: bool
    lines: list[str] = field(default_factory=list)

    def said(self, words: str) -> bool:
        """Return whether a line of the log has these words."""
        return any(words in line for line in self.lines)


def drill_trigger(
    namespace: str,
    image: str,
    drill: str,
    *,
    gpus: int = 0,
    name: str = "a",
    attempt: int = 1,
    **kubernetes: Any,
) -> PodTrigger:
    """Return the trigger of a drill job, with these settings of runtime.kubernetes."""
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
    spec = f"s3://none/none/runs/r/jobs/{name}@5/customize.spec.json"
    job = PodJob("customize", "customize", config.students[0], 5, "r", "runs/r", spec, "s3://none/none")
    operator = PodOperator(job=job, config=config, task_id="customize")
    trigger = operator.trigger(None)
    trigger.manifest["metadata"]["labels"]["try_number"] = str(attempt)
    return trigger


async def accompany(trigger: PodTrigger) -> Outcome:
    """Run a trigger to its event."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("flywheel.runtimes.kubernetes")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        async for event in trigger.run():
            return Outcome(**event.payload, lines=lines)
    finally:
        logger.removeHandler(handler)
    raise AssertionError("the trigger ended without an event")


def run_pod(*arguments: Any, **settings: Any) -> Outcome:
    """Run a drill job in a pod to its end."""
    return asyncio.run(accompany(drill_trigger(*arguments, **settings)))
