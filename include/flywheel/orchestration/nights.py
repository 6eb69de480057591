"""The nights of a schedule: when the DAG runs by itself, and which nights a backfill makes.

Airflow counts a backfilled night as the last one that ran. With `catchup=False` the night before today then
seems to be missed, and a run of it starts that nobody asked for. Here a backfilled night counts as of when it
was asked for: what was due before that is left alone, and what is due after it runs, also when the scheduler
comes late.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import timezone
from airflow.timetables.assets import AssetOrTimeSchedule
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.trigger import CronTriggerTimetable
from airflow.utils.types import DagRunType

from flywheel.common.errors import ConfigError

if TYPE_CHECKING:
    from flywheel.config.clock import ClockSection

# A backfill of more nights is a slip of the pen.
MOST_NIGHTS = 3660


class _GoesOnFromScheduled:
    """A timetable that takes a backfilled run for one of when it was asked for."""

    def run_info_from_dag_run(self, *, dag_run: Any) -> Any:
        """Return what the next run follows."""
        info: DagRunInfo = super().run_info_from_dag_run(dag_run=dag_run)  # type: ignore[misc]
        if dag_run.run_type != DagRunType.BACKFILL_JOB or info.data_interval is None:
            return info
        at = max(info.data_interval.end, timezone.coerce_datetime(dag_run.created_at))
        return info._replace(data_interval=DataInterval.exact(at))


class NightTimetable(_GoesOnFromScheduled, CronTriggerTimetable):
    """Every night at an hour."""


class NightOrAssetTimetable(_GoesOnFromScheduled, AssetOrTimeSchedule):
    """Every night at an hour, and whenever assets have news."""


TIMETABLES = [NightTimetable, NightOrAssetTimetable]


def nights(section: ClockSection, first: date, last: date) -> list[datetime]:
    """Return the times at which a schedule has a run on some days, both included, in its own time zone.

    Raises:
        ConfigError: there is no schedule by the clock, the days are in the wrong order, or too many.
    """
    if not section.cron:
        raise ConfigError("schedule.cron: is not set, and a backfill makes the nights of a schedule; set it")
    if last < first:
        raise ConfigError(f"FROM {first} TO {last}: expected the earlier day first")
    zone = ZoneInfo(section.time_zone)
    bounds = TimeRestriction(
        timezone.coerce_datetime(datetime.combine(first, time(), zone)),
        timezone.coerce_datetime(datetime.combine(last, time.max, zone)),
        catchup=True,
    )
    timetable, found = nightly(section), list[datetime]()
    before = None
    while (
        run := timetable.next_dagrun_info(last_automated_data_interval=before, restriction=bounds)
    ) is not None:
        assert run.logical_date is not None
        found.append(run.logical_date.astimezone(zone))
        if len(found) > MOST_NIGHTS:
            raise ConfigError(f"FROM {first} TO {last}: more than {MOST_NIGHTS:,} nights; ask for fewer")
        before = run.data_interval
    return found


def nightly(section: ClockSection) -> NightTimetable:
    """Return the timetable of a section of the config that has a clock."""
    assert section.cron
    # A new DAG waits for its next night. (With False, one that is new shortly after its hour runs at once.)
    return NightTimetable(section.cron, timezone=section.time_zone, run_immediately=timedelta(0))
