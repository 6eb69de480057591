"""Dates and times as people and programs write them, read whole or not at all.

A text is matched to its end by one of a few forms, each with the date first or the time first; nothing in it
is passed over. The libraries at hand read too much into a text: `email.utils` passes over AM and PM, and
`dateutil` takes the first of two numbers for the month.
"""

from __future__ import annotations

import re
from datetime import date, datetime, tzinfo
from functools import lru_cache

from flywheel.sources.zones import in_zone

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTH = (
    r"(?P<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_WEEKDAY = (
    r"(?:(?P<weekday>mon(?:day)?|tue(?:s(?:day)?)?|wed(?:nesday)?|thu(?:r(?:s(?:day)?)?)?|fri(?:day)?|"
    r"sat(?:urday)?|sun(?:day)?)\.?,? ?)?"
)
_DAY = r"(?P<day>\d\d?)(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4}|\d\d)"
_DATES = (
    r"(?P<year>\d{4})(?P<between>[-/.])(?P<month>\d\d?)(?P=between)(?P<day>\d\d?)",
    r"(?P<first>\d\d?)(?P<between>[-/.])(?P<second>\d\d?)(?P=between)" + _YEAR,
    _DAY + r"[ /-]?(?:of )?" + _MONTH + r"\.?,?[ /-]?" + _YEAR,
    _MONTH + r"\.?[ /-]?" + _DAY + r"(?:, ?|[ /-])" + _YEAR,
    r"(?P<year>\d{4})[ /-]" + _MONTH + r"\.?[ /-]" + _DAY,
)
_CLOCK = (
    r"(?P<hour>\d\d?)(?::(?P<minute>\d\d)(?::(?P<seconds>\d\d)(?:[.,]\d{1,9})?)?)?"
    r"(?: ?(?P<half>[ap])\.?m\.?)?"
)
_ZONE = r"(?: ?\((?P<zoned>[A-Za-z/_]+)\)| ?(?P<zone>[+-]\d.*|[A-Za-z][^,]*))?"
# Lazy, so that the name of a weekday is not taken for that of a zone.
_ZONE_BEFORE = _ZONE.replace("[^,]*", "[A-Za-z/_]*").replace(")?", ")??")
# Between a date and a time.
_SPACE = r"(?:(?<=\d{4})[T_:]|(?<=[-/.]\d\d)[T_:]|(?<=[-/.]\d)[T_:]| ?[,;|@·•] ?(?:at )?| (?:at |[-–—] )?)"
_COMPACT = (
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)[T _-]?(?P<hour>\d\d):?(?P<minute>\d\d)"
    r"(?::?(?P<seconds>\d\d)(?:[.,]\d{1,9})?)?"
)
_FORMS = [
    *(_WEEKDAY + form + "(?:" + _SPACE + _CLOCK + _ZONE + ")?" for form in _DATES),
    _COMPACT + _ZONE,
    # As C, Unix and Java write it: Fri May 31 13:30:00 UTC 2024.
    _WEEKDAY + _MONTH + " " + _DAY + " " + _CLOCK + r"(?: (?P<zone>[A-Za-z/_]+|[+-]\d{4}))? (?P<year>\d{4})",
    *(_CLOCK + _ZONE_BEFORE + r"(?:,| on|,? [-–—])? ?" + _WEEKDAY + form for form in _DATES),
]  # fmt: skip
_WEEK = re.compile(r"\d{4}-W\d\d-\d|\d{4}W\d{3}")


class TextReader:
    """Reads dates and times from texts; the form of the last text is tried first."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._forms = [re.compile(form, re.ASCII | re.IGNORECASE) for form in _FORMS]

    def read(self, text: str) -> datetime | date | None:
        """Return the time, or the date where the text has no time of day; None: no form fits.

        Args:
            text: with single spaces.

        Raises:
            ValueError: a form fits, but the text contradicts itself, or could be several times.
        """
        if _WEEK.fullmatch(text):
            return date.fromisoformat(text)
        for index, form in enumerate(self._forms):
            found = form.fullmatch(text)
            if found is None:
                continue
            parts = found.groupdict()
            if parts["hour"] and not parts["minute"] and not parts["half"]:
                continue
            if index:
                self._forms.insert(0, self._forms.pop(index))
            return self._time(parts)
        return None

    def _time(self, parts: dict[str, str | None]) -> datetime | date:
        get = parts.get
        day = _date(
            get("year"), get("name"), get("month"), get("day"), get("first"), get("second"), get("weekday")
        )
        if parts["hour"] is None:
            return day
        hour = int(parts["hour"])
        if half := get("half"):
            if not 1 <= hour <= 12:
                raise ValueError(f"a clock of 12 hours has no {hour}")
            hour = hour % 12 + (12 if half in "pP" else 0)
        time = datetime(
            day.year, day.month, day.day, hour, int(parts["minute"] or 0), int(parts["seconds"] or 0)
        )
        zone = parts["zone"] or get("zoned")
        return in_zone(time, zone, self._zone) if zone else time


# Many texts are of one day.
@lru_cache(4096)
def _date(
    year: str | None,
    name: str | None,
    month: str | None,
    day: str | None,
    first: str | None,
    second: str | None,
    weekday: str | None,
) -> date:
    """Return the day of the parts that a form has found."""
    year = year or ""
    if len(year) == 2:
        # Mail of before 2000 has years of two digits; there the weekday confirms them.
        if not (weekday and name):
            raise ValueError("it could be several dates: its year has two digits")
        year = f"{'20' if year < '69' else '19'}{year}"
    if first and second:
        one, two = int(first), int(second)
        if one <= 12 and two <= 12 and one != two:
            raise ValueError(f"it could be {year}-{one:02}-{two:02} or {year}-{two:02}-{one:02}")
        numbers = (one, two) if two > 12 else (two, one)
    else:
        numbers = _MONTHS.index(name[:3].lower()) + 1 if name else int(month or 0), int(day or 0)
    found = date(int(year), *numbers)
    if weekday and _DAYS[found.weekday()] != weekday[:3].lower():
        raise ValueError(f"it is no {weekday}: that day is a {found:%A}")
    return found
