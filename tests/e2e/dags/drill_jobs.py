"""The jobs of the drills, whose pods do what tests/e2e/drill says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.runtimes.base import check_ending
from flywheel.runtimes.kubernetes.job import PodJob
from flywheel.runtimes.kubernetes.operator import PodOperator

# {"pods": settings of runtime.kubernetes, "candidates": how many}
SETTINGS = json.loads((Path(os.environ["FLYWHEEL_HOME"]) / "drills.json").read_text())
ROOT = str(Path(os.environ["FLYWHEEL_HOME"]) / "drills")


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


class PodTask(PodOperator):
    """Does what the task of a job does with runtime kubernetes, of a run that nobody has planned.

    Args:
        drill: what the pod does.
        run: name of the run.
        number: of the job in it.
        settings: further arguments of `config`.
    """

    def __init__(
        self,
        *,
        drill: str,
        run: str,
        number: int = 1,
        settings: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(stage="customize", student="a", size=1, **arguments)
        self.drill = drill
        self.run_name = run
        self.number = number
        self.settings = settings or {}

    def execute(self, context: Any) -> NoReturn:
        """Defer; where the pod leaves a result, the trigger ends the task."""
        made = config(self.drill, **self.settings)
        found = job(made, self.run_name, self.number)
        self.describe(found, made, context)
        result = {"root": found.root, "path": found.result}
        self.defer(
            trigger=self.trigger(context, made.runtime.kubernetes, result), method_name="fail_where_it_did"
        )
        raise AssertionError("defer does not return")

    def fail_where_it_did(self, context: Any, event: dict[str, Any]) -> None:
        """Fail where the pod did."""
        check_ending(event)
