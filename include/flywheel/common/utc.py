"""Unix seconds as people read them, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def to_minute(seconds: int) -> str:
    """Return a time as `2019-03-01 08:00`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def to_second(seconds: int) -> str:
    """Return a time as `2019-03-01 08:00:00`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
