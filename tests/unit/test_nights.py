"""The nights of a schedule, and what the scheduler does after a backfill of them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pendulum
import pytest
from airflow.sdk import Asset
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables.base import TimeRestriction
from airflow.utils.types import DagRunType

from flywheel.common.errors import ConfigError
from flywheel.config.clock import ClockSection
from flywheel.config.schema import ScheduleConfig
from flywheel.orchestration.nights import TIMETABLES, NightOrAssetTimetable, nightly, nights

NEW_YORK = ClockSection(cron="0 2 * * *", time_zone="America/New_York")


def test_a_span_of_days_has_both_its_ends_over_a_change_of_the_clock() -> None:
    found = nights(NEW_YORK, date(2018, 3, 9), date(2018, 3, 13))
    assert [night.astimezone(UTC).isoformat() for night in found] == [
        "2018-03-09T07:00:00+00:00",
        "2018-03-10T07:00:00+00:00",
        "2018-03-11T07:00:00+00:00",  # 02:00 is no time of that night: it is 03:00
        "2018-03-12T06:00:00+00:00",
        "2018-03-13T06:00:00+00:00",
    ]


@pytest.mark.parametrize(
    ("section", "days", "message"),
    [
        (ClockSection(), (date(2018, 1, 1), date(2018, 1, 2)), "schedule.cron: is not set"),
        (NEW_YORK, (date(2018, 1, 2), date(2018, 1, 1)), "the earlier day first"),
        (NEW_YORK, (date(1918, 1, 1), date(2018, 1, 1)), "more than 3,660 nights"),
    ],
)
def test_what_is_no_backfill_is_refused(section: ClockSection, days: tuple[date, date], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        nights(section, *days)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the timetables as the plugin does where Airflow has a folder of plugins."""
    known = {f"{one.__module__}.{one.__qualname__}": one for one in TIMETABLES}
    monkeypatch.setattr("airflow.plugins_manager.get_timetables_plugins", lambda: known)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("with_assets", [False, True])
def test_the_schedule_goes_on_from_scheduled_nights_not_from_backfilled_ones(with_assets: bool) -> None:
    timetable = nightly(ScheduleConfig(cron="0 2 * * *"))
    if with_assets:
        timetable = NightOrAssetTimetable(timetable=timetable, assets=[Asset("news")])
    timetable = decode_timetable(encode_timetable(timetable))  # as the scheduler has it
    night = pendulum.datetime(2018, 5, 4, 2)
    unlimited = TimeRestriction(None, None, catchup=False)

    def next_after(run_type: DagRunType, asked: datetime) -> datetime:
        run = SimpleNamespace(
            run_type=run_type,
            run_after=night,
            logical_date=night,
            data_interval_start=night,
            data_interval_end=night,
            partition_date=None,
            partition_key=None,
            created_at=asked,
        )
        last = timetable.run_info_from_dag_run(dag_run=run)
        found = timetable.next_dagrun_info(
            last_automated_data_interval=last and last.data_interval, restriction=unlimited
        )
        return found.run_after

    now = datetime.now(UTC)
    assert next_after(DagRunType.BACKFILL_JOB, now) > now
    # A night that was missed, because nothing ran, is made up for.
    assert next_after(DagRunType.BACKFILL_JOB, now - timedelta(days=2)) < now
    assert next_after(DagRunType.SCHEDULED, now) < now
