"""What a task waits for that holds no process: a small file in the run's folder, as long as it waits.

runs/<run>/waits/<task>.<map index>.json
"""

from __future__ import annotations

from pydantic import BaseModel, Field, ValidationError

from flywheel.artifacts.root import ArtifactRoot
from flywheel.runs.run import Run


class Wait(BaseModel):
    """What a task waits for."""

    sentence: str = Field(description="What it waits for.")
    mend: str = Field(description="What to do.")


def wait_path(run: Run, task_id: str, map_index: int) -> str:
    """Return the path of a task's file in the artifact root."""
    return f"{run.path}/waits/{task_id}.{map_index}.json"


def wait_of(run: Run, task_id: str, map_index: int) -> Wait | None:
    """Return what a task waits for; None where it works, or has said nothing."""
    path = wait_path(run, task_id, map_index)
    try:
        return Wait.model_validate(run.root.read_json(path)) if run.root.exists(path) else None
    except (ValidationError, ValueError, FileNotFoundError):
        return None


def waits(root: ArtifactRoot, path: str, wait: Wait | None) -> None:
    """Write down what a task waits for; None: it does not wait any more."""
    if wait is None:
        root.discard(path)
    else:
        root.write_json(path, wait.model_dump(mode="json"))
