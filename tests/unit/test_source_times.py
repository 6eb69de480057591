"""Times of sources: each is read whole or refused; what could be several is decided by source.time_format."""

import json
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flywheel.common.errors import SourceError
from flywheel.config.source import SourceConfig
from flywheel.sources import Headline, read_headlines, read_log_records
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.timestamps import TimeReader
from flywheel.workloads.workload import Workload

HALF_PAST_ONE = 1717162200  # 2024-05-31T13:30:00Z
MIDNIGHT = 1717113600
HOUR = 3600


def of(value: object, zone: str = "UTC", formats: tuple[str, ...] = ()) -> int:
    return TimeReader(ZoneInfo(zone), formats).read(value).timestamp


@pytest.mark.parametrize(
    "text",
    [
        "May 31, 2024 1:30 PM",
        "Fri, 31 May 2024 1:30 PM",
        "5/31/2024, 1:30:00\u202fPM",
        "05/31/2024 1:30 pm",
        "31/05/2024 01:30 p.m.",
        "Friday, May 31st, 2024 at 1:30 PM UTC",
        "1:30 PM - 31 May 2024",
        "2024-05-31 01:30:00 PM",
    ],
)
def test_a_clock_of_twelve_hours_is_read_with_its_half_of_the_day(text: str) -> None:
    assert of(text) == HALF_PAST_ONE


@pytest.mark.parametrize(
    ("hour", "clock"), [(0, "12:00 AM"), (12, "12:00 PM"), (23, "11:00pm"), (1, "1 a.m.")]
)
def test_noon_and_midnight_of_a_clock_of_twelve_hours(hour: int, clock: str) -> None:
    assert of(f"May 31, 2024 {clock}") == MIDNIGHT + hour * HOUR


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-31T13:30Z",
        "2024/5/31 13:30",
        "2024.05.31 13:30:00",
        "31.05.2024 13:30",
        "31 May 2024, 13:30",
        "31-May-2024 13:30:00",
        "2024-May-31 13:30",
        "Fri May 31 13:30:00 2024",
        "Fri May 31 13:30:00 UTC 2024",
        "13:30, 31 May 2024",
        "20240531T133000Z",
        "20240531T1330",
        "20240531 13:30",
        "20240531-133000",
        "20240531133000Z",
        "2024-05-31T13:30:00,123456789Z",
    ],
)
def test_dates_with_times_of_many_forms(text: str) -> None:
    assert of(text) == HALF_PAST_ONE


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-31T15:30+02:00",
        "2024-05-31 15:30 +0200",
        "2024-05-31 15:30 GMT+2",
        "2024-05-31 15:30:00 CEST",
        "2024-05-31T15:30:00+02:00[Europe/Berlin]",
        "Fri May 31 2024 15:30:00 GMT+0200 (Central European Summer Time)",
        "31/May/2024:15:30:00 +0200",
        "2024-05-31 15:30 Europe/Berlin",
        "May 31, 2024 9:30 AM ET",
        "9:30 AM EDT Fri, 31 May 2024",
        "2024-05-31 22:30 (JST)",
        "Fri, 31 May 24 13:30:00 GMT",
    ],
)
def test_zones_by_offset_and_by_name(text: str) -> None:
    assert of(text, "Asia/Tokyo") == HALF_PAST_ONE


def test_a_name_of_several_zones_is_refused_unless_the_sources_zone_has_it() -> None:
    with pytest.raises(ValueError, match=r"CST could be US Central or China; source.time_zone decides"):
        of("2024-01-31 13:30 CST")
    shanghai, chicago = (of("2024-01-31 13:30 CST", zone) for zone in ("Asia/Shanghai", "America/Chicago"))
    assert chicago - shanghai == 14 * HOUR


@pytest.mark.parametrize(
    "value",
    [
        HALF_PAST_ONE,
        HALF_PAST_ONE * 1000 + 999,
        HALF_PAST_ONE * 10**6 + 1,
        HALF_PAST_ONE * 10**9 + 999_999_999,
        float(HALF_PAST_ONE),
        Decimal(HALF_PAST_ONE),
        20240531133000,
        20240531133000123,
        45443.5625,
        str(HALF_PAST_ONE * 1000),
        "20240531133000",
        "45443.5625",
    ],
)
def test_numbers_are_read_by_their_size(value: Any) -> None:
    assert of(value) == HALF_PAST_ONE


@pytest.mark.parametrize(
    "value", [20240531, 20240531.0, "20240531", 45443, 45443.0, "2024-05-31", "May 31, 2024"]
)
def test_a_day_is_known_when_it_ends(value: Any) -> None:
    assert TimeReader(UTC).read(value) == (MIDNIGHT, MIDNIGHT + 86399)


def test_a_day_of_a_spreadsheet_is_one_of_the_sources_zone() -> None:
    assert of(45443.5625, "America/New_York") == HALF_PAST_ONE + 4 * HOUR


@pytest.mark.parametrize(
    "value",
    [
        "03/04/2024", "03.04.2024 13:30", "3-4-2024", "05/31/24", "31-May-24",  # day or month, which century
        7, 0, "19874", 2024053113, 202405311330, 17_171_622_001,  # days, seconds, hours of a day
        2024, "202405", "2024-05", "May 2024", "2024-W09", "13:30", "May 31",  # no day
        "2024-05-31 13:30 PM", "Sat, 31 May 2024", "2024-02-30", "2024-05-31 24:01",  # contradictions
        "31 mai 2024", "yesterday", "2024-05-31 13:30 Uhr", "2024-05-31x13:30", "2024-05-31 13:30 (draft) 2",
        "updated May 31, 2024", "1.71716E+12", "٢٠٢٤-٠٥-٣١", True, None, [], float("nan"), -5, 1e300, "9" * 400,
    ],
)  # fmt: skip
def test_what_is_not_understood_whole_or_could_be_several_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        of(value)


@pytest.mark.parametrize(
    ("value", "formats", "expected"),
    [
        ("03/04/2024", ("%d/%m/%Y",), 1712102400),
        ("03/04/2024", ("%m/%d/%Y",), 1709510400),
        ("31-May-24", ("%d-%b-%y",), MIDNIGHT),
        ("31.05.2024 13.30 Uhr", ("%d.%m.%Y %H.%M Uhr",), HALF_PAST_ONE),
        ("31/05/2024 09:30 EDT", ("%d/%m/%Y %H:%M %Z",), HALF_PAST_ONE),
        (202405311330, ("%Y%m%d%H%M",), HALF_PAST_ONE),
        (20240531.0, ("%Y%m%d",), MIDNIGHT),
        (7, ("unix_s",), 7),
        ("1000", ("unix_ms",), 1),
        (HALF_PAST_ONE * 10**6, ("unix_us",), HALF_PAST_ONE),
        (HALF_PAST_ONE * 10**9, ("unix_ns",), HALF_PAST_ONE),
        ("19874", ("unix_days",), MIDNIGHT),
        (45443.5625, ("excel",), HALF_PAST_ONE),
        (43981.5625, ("excel_1904",), HALF_PAST_ONE),
        ("2024-05-31", ("%d/%m/%Y", "auto"), MIDNIGHT),
        (datetime(2024, 5, 31, 13, 30), ("%d/%m/%Y",), HALF_PAST_ONE),
    ],
)
def test_the_format_that_is_named_decides(value: Any, formats: tuple[str, ...], expected: int) -> None:
    assert of(value, formats=formats) == expected


def test_a_value_of_another_form_than_the_one_named_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a time of the form '%d/%m/%Y'; got '2024-05-31'"):
        of("2024-05-31", formats=("%d/%m/%Y",))


def test_a_day_of_a_named_format_is_known_when_it_ends() -> None:
    day, time = TimeReader(UTC, ("%d/%m/%Y", "%d/%m/%Y %H")), "31/05/2024 00"
    assert day.read("31/05/2024") == (MIDNIGHT, MIDNIGHT + 86399)
    assert day.read(time) == (MIDNIGHT, MIDNIGHT)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("unix_msec", "the nearest is 'unix_ms'"),
        ("dd/mm/yyyy", "such as '%d/%m/%Y"),
        ("%d/%m", "with day, month and year"),
        ("%d/%m/%Y %I:%M", "%I with %p"),
        ("%d/%m/%Y :%M", "the hour of its minutes"),
        ("%Q/%d/%m/%Y", "a form of strptime"),
        ("%Z %d/%m/%Y", "%Z at its end"),
    ],
)
def test_a_format_that_does_not_say_a_time_is_an_error_of_the_configuration(form: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceConfig(path="a.csv", time_format=form)  # type: ignore[arg-type]


MOMENTS = st.integers(10**8, 4_102_444_799)


@given(MOMENTS)
def test_a_moment_is_the_same_in_every_form(moment: int) -> None:
    utc = datetime.fromtimestamp(moment, UTC)
    forms = (
        "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d %H:%M:%S", "%d %B %Y %I:%M:%S %p", "%a, %d %b %Y %H:%M:%S +0000",
        "%a %b %d %H:%M:%S %Y", "%b %d, %Y at %I:%M:%S %p UTC", "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S", "%I:%M:%S %p %A, %d %B %Y",
    )  # fmt: skip
    reader = TimeReader(UTC)
    assert {reader.read(utc.strftime(form)).timestamp for form in forms} == {moment}
    assert {reader.read(moment * unit).timestamp for unit in (10**3, 10**6, 10**9)} == {moment}


@given(
    st.one_of(
        st.text(max_size=30),
        st.floats(),
        st.integers(),
        st.from_regex(r"[0-9 :./,TZ+-]{1,25}", fullmatch=True),
    )
)
def test_anything_is_a_time_of_a_time_that_is_meant_or_refused(value: Any) -> None:
    try:
        timestamp, known_at = TimeReader(UTC).read(value)
    except ValueError as error:
        assert str(error)
    else:
        assert 0 <= timestamp <= known_at < 32_503_680_000 + 86_400


# -- sources -------------------------------------------------------------------------------------------


def read(tmp_path: Path, times: list[str], **settings: Any) -> tuple[list[Headline], list[dict[str, Any]]]:
    (tmp_path / "h.csv").write_text("headline,date\n" + "".join(f'Acme beats,"{time}"\n' for time in times))
    source = SourceConfig(path=str(tmp_path / "h.csv"), **settings)
    with Quarantine(tmp_path / "q.jsonl") as quarantine:
        headlines = list(read_headlines(source, quarantine, key="source.0"))
    return headlines, [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]


@pytest.mark.skipif(
    not (Path(__file__).parents[3] / "shared/cases/twelve_hour_clock").exists(), reason="no shared/cases here"
)
def test_the_reported_file_with_a_clock_of_twelve_hours(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "shared/cases/twelve_hour_clock/times.csv"
    with Quarantine(tmp_path / "q") as quarantine:
        times = [h.timestamp for h in read_headlines(SourceConfig(path=str(path)), quarantine)]
    assert times == [HALF_PAST_ONE, HALF_PAST_ONE + 10 * HOUR]


def test_a_column_that_could_be_days_or_months_first_stops_the_source_with_its_rows(tmp_path: Path) -> None:
    times = [f"{day:02}/04/2024" for day in range(1, 31)]
    with pytest.raises(SourceError) as caught:
        read(tmp_path, times)
    assert "h.csv: 11 of the first 30 times in the column 'date' cannot be read" in str(caught.value)
    assert "line 2: '01/04/2024'; line 3: '02/04/2024'; line 4: '03/04/2024'" in str(caught.value)
    assert "(key source.0.time_format)" in str(caught.value)
    headlines, bad = read(tmp_path, times, time_format="%d/%m/%Y")
    assert (len(headlines), bad) == (30, [])


def test_a_column_that_turns_unreadable_stops_the_source_before_its_end(tmp_path: Path) -> None:
    seen = Counter[str]()
    rows = "".join(f"h {row},{'2024-05-31' if row < 300 else 'n/a'}\n" for row in range(10_000))
    (tmp_path / "h.csv").write_text("headline,date\n" + rows)
    source = SourceConfig(path=str(tmp_path / "h.csv"))
    with Quarantine(tmp_path / "q") as quarantine, pytest.raises(SourceError, match="'n/a'"):
        list(read_headlines(source, quarantine, counts=seen))
    assert seen["quarantined"] < 30


def test_a_time_now_and_then_that_cannot_be_read_and_missing_ones_are_bad_rows(tmp_path: Path) -> None:
    headlines, bad = read(tmp_path, ["2024-05-31"] * 100 + ["n/a"] * 2 + [""] * 50 + ["soon"] * 2)
    assert (len(headlines), len(bad)) == (100, 54)
    assert bad[2]["reason"].endswith("it is missing")


def test_each_file_of_a_source_is_judged_by_itself(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("headline,date\n" + "Acme beats,2024-05-31\n" * 1000)
    (tmp_path / "b.csv").write_text("headline,date\n" + "Acme beats,31 mai 2024\n" * 3)
    with (
        Quarantine(tmp_path / "q") as quarantine,
        pytest.raises(SourceError, match=r"b\.csv: 3 of the first 3"),
    ):
        list(read_headlines(SourceConfig(path=str(tmp_path / "*.csv")), quarantine))


WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")


@pytest.mark.parametrize(
    ("written", "timestamp"),
    [
        (HALF_PAST_ONE, HALF_PAST_ONE),
        (HALF_PAST_ONE * 1000, HALF_PAST_ONE),
        ("2024-05-31T13:30:00Z", HALF_PAST_ONE),
        ("May 31, 2024 1:30 PM", HALF_PAST_ONE),
        (1000, 1000),
        (2024053113, 2024053113),
    ],
)
def test_log_records_have_unix_seconds_or_times_that_are_understood(
    tmp_path: Path, written: Any, timestamp: int
) -> None:
    line = {
        "request": {"model": "m", "messages": WORKLOAD.messages("Acme beats")},
        "response": {"choices": [{"message": {"role": "assistant", "content": "[[Earnings]]"}}]},
        "workload_id": WORKLOAD.id,
        "client_id": "desk",
        "timestamp": written,
    }
    (tmp_path / "app.log").write_text(json.dumps(line))
    source = SourceConfig(path=str(tmp_path / "app.log"), kind="log_records")
    with Quarantine(tmp_path / "q") as quarantine:
        records = list(read_log_records(source, quarantine, WORKLOAD))
    assert [(record.timestamp, record.known_at) for record in records] == [(timestamp, timestamp)]


def test_a_log_of_times_that_cannot_be_read_stops_its_source(tmp_path: Path) -> None:
    line = json.dumps({"timestamp": "03/04/2024", "workload_id": WORKLOAD.id})
    (tmp_path / "app.log").write_text(f"{line}\n" * 3)
    source = SourceConfig(path=str(tmp_path / "app.log"), kind="log_records")
    with Quarantine(tmp_path / "q") as quarantine, pytest.raises(SourceError, match=r"source\.time_format"):
        list(read_log_records(source, quarantine, WORKLOAD))


def test_dates_of_other_years_than_mail_has_are_read() -> None:
    assert TimeReader(UTC).read(date(2024, 5, 31)).timestamp == MIDNIGHT
