"""# What nobody needs any more

Removes runs, data sets, adapters, evaluations, quarantines and half-written files that are older than
`retention` says and that no champion, no hold and no run under way needs; see docs/forgetting.md. It is there
where `retention.cron` is set. What it would remove now: `flywheel prune`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from flywheel.forgetting.tasks import prune
from flywheel.orchestration import notify_failure, prune_schedule, read_config

config = read_config()


@dag(
    dag_display_name="flywheel prune",
    schedule=prune_schedule(config),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "flywheel", "retries": 2, "retry_delay": timedelta(seconds=10)},
    on_failure_callback=notify_failure,
    doc_md=__doc__,
    tags=["flywheel"],
)
def flywheel_prune() -> None:
    """Remove what nobody needs."""
    prune()


if prune_schedule(config) is not None:
    flywheel_prune()
