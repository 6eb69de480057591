"""Read a point in time, however a source spells it, as unix seconds; what is not understood whole is refused.

`source.time_format` decides where a value could be several times. Without it texts are read by
`flywheel.sources.time_texts`, and numbers by their size:

    19700101 to 29991231           a date; with 14, 17 or 20 digits a date with its time
    25,569 to 73,050               a day of a spreadsheet (1900 system), from 1970 to 2099, with its fraction
    from 1e8, 1e11, 1e14, 1e17 on  seconds, milli-, micro-, nanoseconds since 1970, each up to 100 times that

Numbers between these could be anything: rows counted, days since 1970, years, months.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, tzinfo
from decimal import Decimal
from typing import NamedTuple

from flywheel.sources.time_formats import NUMBER, PARTS, Found, Number, day_of, reader_of, seconds_of
from flywheel.sources.time_texts import TextReader

EXPECTED = "an ISO date or date-time such as 2024-03-01 or 2024-03-01T09:30:00Z, or unix seconds"
# Who decides where a value has another form, or could have several.
DECIDES = "source.time_format says how times are written, such as '%d/%m/%Y' or unix_ms"
# No time is written in more characters.
_LONGEST = 200
# Unix seconds of the year 3000.
_LATEST = 32_503_680_000
# Of unix seconds that are no other number, 1973; those of before are seldom meant.
_LEAST_SECONDS = 10**8
_SERIALS = (25_569, 73_051)
_YEAR = re.compile(r"(19|2\d)\d\d((0[1-9]|1[0-2])?)")
_COMPACT = re.compile(
    r"((?:19|2\d)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))((?:[01]\d|2[0-3])(?:[0-5]\d){0,2})?(\d{3}|\d{6})?"
)
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d(?P<time>[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)
# The last second of a day, at which a date without a time counts as known.
_END_OF_DAY = time(23, 59, 59)
# Dates repeat: so many of them are remembered.
_REMEMBERED = 4096


class Time(NamedTuple):
    """A point in time: unix seconds, and those from which it counts as known.

    These differ for a date without a time: it begins with its day and counts as known when that ends.
    """

    timestamp: int
    known_at: int


class TimeReader:
    """Reads the times of a source.

    Args:
        zone: of a value that names none. A date is the start of its day there.
        formats: those of `source.time_format`; the first that fits is taken.
        is_unix: numbers up to 1e10 that are no date are unix seconds, also those that could be another
            number: the format of log records says so.
    """

    def __init__(self, zone: tzinfo, formats: Sequence[str] = (), *, is_unix: bool = False) -> None:
        self._zone = zone
        self._texts = TextReader(zone)
        self._is_unix = is_unix
        self._is_log = is_unix and not formats
        self._dates: dict[str, Time] = {}
        self._readers: list[Callable[[object], Found]] = [
            self._as_written if form == "auto" else reader_of(form, zone) for form in formats or ("auto",)
        ]
        forms = " or ".join(map(repr, formats))
        self._expected = f"a time of the form {forms}" if formats else EXPECTED

    def read(self, value: object) -> Time:
        """Return a point in time, fractions of a second cut off, and from when it counts as known.

        A date-time at midnight is a time; only a value that has no time of day, such as `2024-03-01`, is
        known at the end of its day.

        Args:
            value: a date, a date-time, a number or a text.

        Raises:
            ValueError: it is not understood whole, could be several times, or is not between 1970 and 3000.
        """
        if self._is_log and type(value) is int and _LEAST_SECONDS <= value < _LEAST_SECONDS * 100:
            return Time(value, value)
        if isinstance(value, str):
            remembered = self._dates.get(value)
            if remembered is not None:
                return remembered
        found = self._found(value)
        try:
            if isinstance(found, datetime):
                seconds = (found if found.tzinfo else found.replace(tzinfo=self._zone)).timestamp()
            elif isinstance(found, date):
                seconds = datetime.combine(found, time(), self._zone).timestamp()
            else:
                seconds = found
        except (OverflowError, ValueError):  # the first and last years of the calendar, in some zone
            seconds = -1
        if not 0 <= seconds < _LATEST:
            raise ValueError(f"expected a time between 1970 and 3000; got {value!r:.80}")
        timestamp = int(seconds)
        if isinstance(found, datetime) or not isinstance(found, date):
            return Time(timestamp, timestamp)
        day = Time(timestamp, int(datetime.combine(found, _END_OF_DAY, self._zone).timestamp()))
        if isinstance(value, str):
            if len(self._dates) >= _REMEMBERED:
                self._dates.clear()
            self._dates[value] = day
        return day

    def _found(self, value: object) -> datetime | date | float:
        if isinstance(value, Decimal):
            value = int(value) if value == value.to_integral_value() else float(value)
        if isinstance(value, date):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"expected {self._expected}; got {value!r:.80}")
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ValueError(f"expected {self._expected}; got {len(value):,} characters: {value[:80]!r}")
        try:
            for read in self._readers:
                found = read(value)
                if found is not None:
                    return found
        except ValueError as error:
            decides = "" if "source." in str(error) else f" ({DECIDES})"
            raise ValueError(f"expected {self._expected}; got {value!r:.80}: {error}{decides}") from None
        raise ValueError(f"expected {self._expected}; got {value!r:.80} ({DECIDES})")

    def _as_written(self, value: object) -> Found:
        """Return what a text or number says by itself; None: nothing that is known."""
        if not isinstance(value, str):
            assert isinstance(value, int | float)
            return self._of_number(value)
        text = value.strip()
        iso = _ISO.fullmatch(text)
        if iso:
            return datetime.fromisoformat(text) if iso["time"] else date.fromisoformat(text)
        if NUMBER.fullmatch(text):
            # A number of more digits than any time has is none; Python refuses to read it.
            return self._of_number(float(text) if "." in text or len(text) > 30 else int(text))
        return self._texts.read(" ".join(text.split()))

    def _of_number(self, number: Number) -> Found:
        if not 0 <= number < 1e21:  # also false for not-a-number
            return float(number) if number == number else None
        digits = str(int(number)) if number == int(number) else ""
        compact = _COMPACT.fullmatch(digits)
        if self._is_unix and number < _LEAST_SECONDS * 100 and not (compact and len(digits) == 8):
            return float(number)
        if compact:
            found = _compact(*compact.groups())
            if found is not None:
                return found
        for parts in PARTS.values():
            if _LEAST_SECONDS * parts <= number < _LEAST_SECONDS * parts * 100:
                return seconds_of(number, parts)
        if _SERIALS[0] <= number < _SERIALS[1]:
            return day_of(number)
        if _YEAR.fullmatch(digits):
            raise ValueError(f"a {'year' if len(digits) == 4 else 'month'} alone")
        raise ValueError("it could be a number of seconds, of days, or no time at all")


def _compact(day: str, clock: str | None, fraction: str | None) -> datetime | date | None:
    """Return the time that digits such as 20240531133000 are; None where they are none."""
    try:
        found = datetime.strptime(day, "%Y%m%d")
    except ValueError:
        return None
    if clock is None:
        return None if fraction else found.date()
    if len(clock) == 6:
        return found.replace(hour=int(clock[:2]), minute=int(clock[2:4]), second=int(clock[4:]))
    if fraction:
        return None
    raise ValueError("it could be a date with its time, or unix time")
