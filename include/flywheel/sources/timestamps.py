"""Read a point in time, however a source spells it, as unix seconds."""

from __future__ import annotations

import re
from datetime import date, datetime, time, tzinfo
from email.utils import parsedate_to_datetime
from typing import NamedTuple

EXPECTED = "an ISO date or date-time such as 2024-03-01 or 2024-03-01T09:30:00Z, or unix seconds"
# Unix seconds of the year 3000.
_LATEST = 32_503_680_000
# From these on, a number is taken for milliseconds, microseconds or nanoseconds since 1970.
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_YEAR = re.compile(r"(19|2\d)\d\d")
_COMPACT_DATE = re.compile(r"(19|2\d)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")


# The last second of a day, at which a date without a time counts as known.
_END_OF_DAY = time(23, 59, 59)


class Time(NamedTuple):
    """A point in time: unix seconds, and those from which it counts as known.

    These differ for a date without a time: it begins with its day and counts as known when that ends.
    """

    timestamp: int
    known_at: int


def parse_time(value: object, zone: tzinfo) -> Time:
    """Return a point in time, and from when it counts as known.

    Args and errors are those of `parse_timestamp`. A date-time at midnight is a time; only a value that has
    no time of day, such as `2024-03-01`, is known at the end of its day in `zone`.
    """
    timestamp = parse_timestamp(value, zone)
    if not _is_date(value):
        return Time(timestamp, timestamp)
    day = datetime.fromtimestamp(timestamp, zone).date()
    return Time(timestamp, int(datetime.combine(day, _END_OF_DAY, zone).timestamp()))


def _is_date(value: object) -> bool:
    """Return whether a value that `parse_timestamp` reads has no time of day."""
    if isinstance(value, str):
        text = value.strip()
        if _COMPACT_DATE.fullmatch(text):
            return True
        try:
            date.fromisoformat(text)
        except ValueError:
            return False
        return True
    if isinstance(value, date):
        return not isinstance(value, datetime)
    return isinstance(value, int | float) and _COMPACT_DATE.fullmatch(str(value)) is not None


def parse_timestamp(value: object, zone: tzinfo) -> int:
    """Return unix seconds, fractions cut off.

    Args:
        value: a date or date-time, its ISO 8601 or RFC 2822 text, a number of (milli-, micro-, nano-)
            seconds since 1970, or a number or text YYYYMMDD.
        zone: the zone of a value that names none. A date is the start of its day there.

    Raises:
        ValueError: it is none of these, a year alone, or not between 1970 and 3000.
    """
    if isinstance(value, str):
        value = _of_text(value.strip())
    if isinstance(value, datetime):
        seconds = (value if value.tzinfo else value.replace(tzinfo=zone)).timestamp()
    elif isinstance(value, date):
        seconds = datetime.combine(value, time(), zone).timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if _COMPACT_DATE.fullmatch(str(value)):
            return parse_timestamp(datetime.strptime(str(value), "%Y%m%d").date(), zone)
        if _YEAR.fullmatch(str(value)):
            raise ValueError(f"expected {EXPECTED}; got a year alone: {value}")
        seconds = _seconds(float(value))
    else:
        raise ValueError(f"expected {EXPECTED}; got {value!r:.80}")
    if not 0 <= seconds < _LATEST:  # also false for not-a-number
        raise ValueError(f"expected a time between 1970 and 3000; got {value!r:.80}")
    return int(seconds)


def _of_text(text: str) -> datetime | date | float:
    if _COMPACT_DATE.fullmatch(text):
        return datetime.fromisoformat(text).date()
    if _YEAR.fullmatch(text):
        raise ValueError(f"expected {EXPECTED}; got a year alone: {text}")
    if _NUMBER.fullmatch(text):
        return float(text)
    iso = re.sub(r"\s*(UTC|GMT)$", "+00:00", text)
    try:
        # fromisoformat gives a date-time at midnight for a date, without a zone: as wanted.
        return datetime.fromisoformat(iso)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text).replace(microsecond=0)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise ValueError(f"expected {EXPECTED}; got {text!r:.80}") from None


def _seconds(number: float) -> float:
    for least, unit in _UNITS:
        if number >= least:
            return number / unit
    return number
