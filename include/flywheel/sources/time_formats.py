"""Times in the forms that a configuration names: see `source.time_format`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, tzinfo

from flywheel.config.times import has_hour, split_zone
from flywheel.sources.zones import in_zone

# What is read out of a value: a time, a day, unix seconds; None: the value has another form.
Found = datetime | date | float | None
Number = int | float

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
# Of a second, by the word for it.
PARTS = {"unix_s": 1, "unix_ms": 10**3, "unix_us": 10**6, "unix_ns": 10**9}
# Day 0 of a spreadsheet's calendar, and of unix.
_DAY_ZERO = {
    "excel": datetime(1899, 12, 30),
    "excel_1904": datetime(1904, 1, 1),
    "unix_days": datetime(1970, 1, 1),
}
_MOST_DAYS = 400_000


def reader_of(form: str, zone: tzinfo) -> Callable[[object], Found]:
    """Return what reads values of a form: a word of TIME_WORDS but auto, or letters of strptime."""
    if form in PARTS:
        parts = PARTS[form]
        return lambda value: None if (number := number_of(value)) is None else seconds_of(number, parts)
    if form in _DAY_ZERO:
        zero = _DAY_ZERO[form]
        return lambda value: None if (number := number_of(value)) is None else day_of(number, zero)
    return _strptime(form, zone)


def number_of(value: object) -> Number | None:
    """Return a number, or the one that a text is; None of anything else."""
    if isinstance(value, str):
        text = value.strip()
        if not NUMBER.fullmatch(text):
            return None
        return float(text) if "." in text else int(text)
    return value if isinstance(value, int | float) and value == value else None


def seconds_of(number: Number, parts: int) -> float:
    """Return the seconds of a number of parts of one; of whole numbers without rounding."""
    return number // parts if isinstance(number, int) else number / parts


def day_of(number: Number, zero: datetime = _DAY_ZERO["excel"]) -> datetime | date | None:
    """Return the day with that number, and where it has a fraction the time of day, to the second."""
    if not 0 <= number < _MOST_DAYS:
        return None
    if number == int(number):
        return (zero + timedelta(days=int(number))).date()
    return zero + timedelta(seconds=round(number * 86_400))


def _strptime(form: str, zone: tzinfo) -> Callable[[object], Found]:
    form, has_zone = split_zone(form)
    is_date = not has_hour(form)

    def read(value: object) -> Found:
        text = " ".join(
            str(int(value) if isinstance(value, float) and value == value // 1 else value).split()
        )
        name = ""
        if has_zone:
            text, _, name = text.rpartition(" ")
        try:
            found = datetime.strptime(text, form)
        except (ValueError, OverflowError):
            return None
        if name:
            return in_zone(found, name, zone)
        return found.date() if is_date and found.tzinfo is None else found

    return read
