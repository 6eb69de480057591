"""What the DAG is built of: its schedule and params, its tasks, the review, and who is told what."""

from __future__ import annotations

from flywheel.common.redaction import install
from flywheel.config.experiments import experiment_in
from flywheel.jobs.spec import CHAMPION
from flywheel.orchestration.beside import beside
from flywheel.orchestration.confirm import ConfirmOperator
from flywheel.orchestration.endpoint import await_endpoint, has_endpoint
from flywheel.orchestration.failing import KEEPS_FAILURES
from flywheel.orchestration.notifications import notify_failure
from flywheel.orchestration.review import ReviewOperator
from flywheel.orchestration.settings import (
    clock_schedule,
    confirms_cost,
    dag_params,
    dag_schedule,
    pool_of_label,
    read_config,
    read_runtime,
    serving_runtime,
    shown,
)
from flywheel.orchestration.tasks import (
    CHAMPION as CHAMPION_ASSET,
)
from flywheel.orchestration.tasks import (
    curate,
    ingest,
    label,
    plan,
    promote,
    score,
)
from flywheel.orchestration.watching import watch

# Whatever loads the DAG runs the tasks: their logs hold no secret.
install()

__all__ = [
    "CHAMPION",
    "CHAMPION_ASSET",
    "KEEPS_FAILURES",
    "ConfirmOperator",
    "ReviewOperator",
    "await_endpoint",
    "beside",
    "clock_schedule",
    "confirms_cost",
    "curate",
    "dag_params",
    "dag_schedule",
    "experiment_in",
    "has_endpoint",
    "ingest",
    "label",
    "notify_failure",
    "plan",
    "pool_of_label",
    "promote",
    "read_config",
    "read_runtime",
    "score",
    "serving_runtime",
    "shown",
    "watch",
]
