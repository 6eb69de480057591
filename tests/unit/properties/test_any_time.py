"""A time is read as the one that was written, in whatever form, or its row or its source is refused."""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from tests.unit.properties.inputs import bounded
from tests.unit.properties.test_any_headline import read

Form = Callable[[datetime], Any]
FORMS: dict[str, Form] = {
    "date": lambda at: at.date().isoformat(),
    "ISO": lambda at: at.isoformat(),
    "ISO without a zone": lambda at: at.replace(tzinfo=None).isoformat(" "),
    "another zone": lambda at: at.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
    "mail": format_datetime,
    "seconds": lambda at: int(at.timestamp()),
    "seconds and a part": lambda at: at.timestamp() + 0.25,
    "milliseconds": lambda at: int(at.timestamp()) * 1000,
    "microseconds": lambda at: int(at.timestamp()) * 10**6,
    "nanoseconds": lambda at: int(at.timestamp()) * 10**9,
    "compact date": lambda at: at.strftime("%Y%m%d"),
    "compact date-time": lambda at: at.strftime("%Y%m%d%H%M%S"),
    "compact ISO": lambda at: at.strftime("%Y%m%dT%H%M%SZ"),
    "spreadsheet": lambda at: (at - datetime(1899, 12, 30, tzinfo=UTC)) / timedelta(days=1),
    "day first": lambda at: at.strftime("%d/%m/%Y"),
    "month first": lambda at: at.strftime("%m/%d/%Y %I:%M %p"),
    "short year": lambda at: at.strftime("%d.%m.%y"),
    "month by name": lambda at: at.strftime("%b %d, %Y"),
    "day and name": lambda at: at.strftime("%d %B %Y %H:%M"),
    "year and month": lambda at: at.strftime("%Y-%m"),
    "year and week": lambda at: at.strftime("%G-W%V"),
}


@given(
    times=st.lists(
        st.datetimes(datetime(1999, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),
        min_size=1,
        max_size=6,
    ),
    form=st.sampled_from(list(FORMS)),
    as_text=st.booleans(),
)
@bounded(200)
def test_a_time_is_read_right_or_not_at_all(times: list[datetime], form: str, as_text: bool) -> None:
    times = [at.replace(microsecond=0) for at in times]
    values = [str(FORMS[form](at)) if as_text else FORMS[form](at) for at in times]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news.jsonl"
        path.write_text(
            "\n".join(json.dumps({"headline": f"n {i}", "date": value}) for i, value in enumerate(values))
        )
        found = read(path)
    event(f"{form}: {'refused' if found is None else 'read'}")
    if found is None:
        return
    headlines, aside, counts = found
    assert counts.total() == len(times) == len(headlines) + len(aside)
    for headline in headlines:
        at = times[int(headline.text.removeprefix("n "))]
        same_day = datetime.fromtimestamp(headline.timestamp, UTC).date() == at.date()
        exact = abs(headline.timestamp - at.timestamp()) <= 60
        # What has no time of day is the start of its day.
        starts = headline.timestamp % 86400 == 0
        assert exact or (same_day and starts), (form, at, headline.timestamp)
        assert headline.known_at is not None and headline.known_at >= int(at.timestamp()) - 60
