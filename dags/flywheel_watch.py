"""# A night of production

Has the teacher label the audit of what students answered, counts how often they agree, and looks for drift: a
drop that is more than chance gives an event to the asset alias `flywheel-drift`, which `schedule.asset` of
an experiment can hear, and tells `notifications.on_drift`; see docs/production.md. It is there where
`serving.watch.cron` is set. By hand: `flywheel watch`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from flywheel.orchestration import beside, clock_schedule, read_config, watch

config = read_config()
schedule = clock_schedule(config and config.serving.watch)


@dag(
    dag_display_name="flywheel watch",
    schedule=schedule,
    doc_md=__doc__,
    **beside(timedelta(minutes=1)),
)
def flywheel_watch() -> None:
    """Look at a night of production."""
    watch()


if schedule is not None:
    flywheel_watch()
