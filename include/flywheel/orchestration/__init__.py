"""What the DAG is built of: its schedule and params, its tasks, the review, and who is told what."""

from __future__ import annotations

from flywheel.orchestration.jobs import JobOperator
from flywheel.orchestration.notifications import notify_failure
from flywheel.orchestration.review import ReviewOperator
from flywheel.orchestration.settings import dag_params, dag_schedule, read_config, runs_elsewhere
from flywheel.orchestration.tasks import curate, ingest, label, plan, promote, score, sweep
from flywheel.wheel import CHAMPION

__all__ = [
    "CHAMPION",
    "JobOperator",
    "ReviewOperator",
    "curate",
    "dag_params",
    "dag_schedule",
    "ingest",
    "label",
    "notify_failure",
    "plan",
    "promote",
    "read_config",
    "runs_elsewhere",
    "score",
    "sweep",
]
