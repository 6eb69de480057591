"""The zone that a time is written with: an offset, a name of the tz database, or an abbreviation."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

# `+02:00`, `GMT+2`, `+0200 (CEST)`, `+02:00[Europe/Berlin]`: a name after the offset repeats it.
_OFFSET = re.compile(
    r"(?:UTC|GMT|UT)? ?(?P<sign>[+-])(?P<hours>\d\d?)(?::?(?P<minutes>\d\d))?"
    r"(?: ?(?:[A-Z]{1,5}|\([^()]{1,60}\)|\[[\w/+-]{1,60}\]))?",
    re.ASCII | re.IGNORECASE,
)
_UTC = {"Z", "UTC", "GMT", "UT", "ZULU"}
# Hours east of Greenwich of what is one zone's name alone, in the news at least.
_HOURS = {
    "EST": -5, "EDT": -4, "CDT": -5, "MDT": -6, "PDT": -7, "AKST": -9, "AKDT": -8,
    "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3,
    "HKT": 8, "SGT": 8, "AWST": 8, "JST": 9, "KST": 9, "ACST": 9.5, "AEST": 10, "ACDT": 10.5, "AEDT": 11,
    "NZST": 12, "NZDT": 13,
}  # fmt: skip
# What people write for a place's time, whether it is summer there or not.
_PLACES = {
    "ET": "America/New_York",
    "CT": "America/Chicago",
    "MT": "America/Denver",
    "PT": "America/Los_Angeles",
}
_SEVERAL = {
    "CST": "US Central or China",
    "MST": "US Mountain or Malaysia",
    "PST": "US Pacific or the Philippines",
    "IST": "India, Israel or Ireland",
    "BST": "Britain or Bangladesh",
    "AST": "Atlantic or Arabia",
    "ADT": "Atlantic or Arabia",
    "GST": "the Gulf or Georgia",
    "SST": "Singapore or Samoa",
    "ECT": "Ecuador or Europe",
    "AMT": "the Amazon or Armenia",
}


def in_zone(local: datetime, name: str, zone: tzinfo) -> datetime:
    """Return a local time with the zone that is written behind it.

    Args:
        name: as written: `Z`, `+02:00`, `GMT+2`, `Europe/Berlin`, `EDT`, `ET`.
        zone: the source's; an abbreviation that is its own at that time means it.

    Raises:
        ValueError: the name is none, or that of several zones.
    """
    fixed = _fixed(name)
    if fixed is not None:
        return local.replace(tzinfo=fixed)
    name = name.strip()
    short = name.upper()
    if local.replace(tzinfo=zone).tzname() == short:
        return local.replace(tzinfo=zone)
    if short in _HOURS:
        return local.replace(tzinfo=timezone(timedelta(hours=_HOURS[short])))
    if short in _PLACES:
        return local.replace(tzinfo=ZoneInfo(_PLACES[short]))
    if short in _SEVERAL:
        raise ValueError(
            f"{short} could be {_SEVERAL[short]}; source.time_zone decides, where it has that name then"
        )
    if "/" in name and name in _names():
        return local.replace(tzinfo=ZoneInfo(name))
    raise ValueError(f"no zone is called {name!r:.40}")


@lru_cache(1024)
def _fixed(name: str) -> tzinfo | None:
    """Return the zone of an offset or of one of Greenwich's names; None of other names."""
    name = name.strip()
    if name.upper() in _UTC:
        return UTC
    offset = _OFFSET.fullmatch(name)
    if not offset:
        return None
    hours, minutes = int(offset["hours"]), int(offset["minutes"] or 0)
    if hours > 14 or minutes > 59:
        raise ValueError(f"no zone lies {name!r:.40} from Greenwich")
    away = timedelta(hours=hours, minutes=minutes)
    return timezone(-away if offset["sign"] == "-" else away)


@lru_cache(1)
def _names() -> frozenset[str]:
    return frozenset(available_timezones())
