"""What a configuration says of times: zones, and the forms in which a source writes its times."""

from __future__ import annotations

import difflib
import re
from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

# Forms that need no letters of strptime: as written, numbers since 1970 by their unit, days of a spreadsheet.
TIME_WORDS = ("auto", "unix_s", "unix_ms", "unix_us", "unix_ns", "unix_days", "excel", "excel_1904")
# A time whose parts cannot be taken for one another; its fraction is cut off with those of all times.
_PROBE = datetime(2033, 11, 27, 16, 48, 59)


def known_time_zone(zone: str) -> str:
    """Return a time zone's name.

    Raises:
        ValueError: there is none of that name.
    """
    if zone not in available_timezones():
        raise ValueError("a time zone of the IANA database, such as 'Europe/London'")
    ZoneInfo(zone)
    return zone


def known_time_format(form: str) -> str:
    """Return a form of times: one of TIME_WORDS, or one of `strptime` that says a day whole.

    Raises:
        ValueError: it is neither; the message says what is missing.
    """
    if form in TIME_WORDS:
        return form
    if "%" not in form:
        near = difflib.get_close_matches(form, TIME_WORDS, n=1, cutoff=0.6)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise ValueError(
            f"a form such as '%d/%m/%Y %H:%M', or one of {', '.join(TIME_WORDS)}; got {form!r}{hint}"
        )
    without_zone, ends_with_zone = split_zone(form)
    if "%Z" in without_zone or (ends_with_zone and "%z" in without_zone):
        raise ValueError(f"a form with one zone, and %Z at its end; got {form!r}")
    try:
        found = datetime.strptime(_PROBE.strftime(without_zone), without_zone)
    except ValueError as error:
        raise ValueError(f"a form of strptime such as '%d/%m/%Y %H:%M'; got {form!r}: {error}") from None
    if found.date() != _PROBE.date():
        raise ValueError(f"a form with day, month and year, such as '%d/%m/%Y'; got {form!r}")
    if has_hour(without_zone) and found.hour != _PROBE.hour:
        raise ValueError(f"a form whose hour is whole: %H, or %I with %p; got {form!r}")
    if not has_hour(without_zone) and found.time() != datetime.min.time():
        raise ValueError(f"a form with the hour of its minutes; got {form!r}")
    return form


def split_zone(form: str) -> tuple[str, bool]:
    """Return a form without the name of a zone at its end, and whether it had one."""
    kept = form.removesuffix("%Z")
    return kept.rstrip(), kept != form


def has_hour(form: str) -> bool:
    """Return whether a form says the hour, and so is more than a date."""
    return any(letters in form.replace("%%", "") for letters in ("%H", "%I", "%c", "%X", "%p"))


def known_cron(cron: str | None) -> str | None:
    """Return a cron expression as it is.

    Raises:
        ValueError: it is none.
    """
    if cron is not None:
        presets = {"@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly"}
        field = r"[\d*/,A-Za-z#?L-]+"
        if cron not in presets and not re.fullmatch(rf"\s*{field}(\s+{field}){{4}}\s*", cron):
            raise ValueError("a cron expression of five fields, such as '0 2 * * *', or a preset as '@daily'")
    return cron
