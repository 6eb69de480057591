"""# What nobody needs any more

Removes runs, data sets, adapters, evaluations, quarantines and half-written files that are older than
`retention` says and that no champion, no hold and no run under way needs; see docs/forgetting.md. It is there
where `retention.cron` is set. What it would remove now: `flywheel prune`.
"""

from __future__ import annotations

from airflow.sdk import dag

from flywheel.forgetting.tasks import prune
from flywheel.orchestration import beside, clock_schedule, read_config

config = read_config()
schedule = clock_schedule(config and config.retention)


@dag(
    dag_display_name="flywheel prune",
    schedule=schedule,
    doc_md=__doc__,
    **beside(),
)
def flywheel_prune() -> None:
    """Remove what nobody needs."""
    prune()


if schedule is not None:
    flywheel_prune()
