"""# A night of production

Has the teacher label the audit of what students answered, counts how often they agree, and looks for drift: a
drop that is more than chance gives an event to the asset alias `flywheel-drift`, which `schedule.asset` of
an experiment can hear, and tells `notifications.on_drift`; see docs/production.md. It is there where
`serving.watch.cron` is set. By hand: `flywheel watch`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from flywheel.orchestration import notify_failure, read_config, watch, watch_schedule

config = read_config()


@dag(
    dag_display_name="flywheel watch",
    schedule=watch_schedule(config),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "flywheel", "retries": 2, "retry_delay": timedelta(minutes=1)},
    on_failure_callback=notify_failure,
    doc_md=__doc__,
    tags=["flywheel"],
)
def flywheel_watch() -> None:
    """Look at a night of production."""
    watch()


if watch_schedule(config) is not None:
    flywheel_watch()
