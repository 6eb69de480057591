"""Each line of a pod's log once, however often it is read and whoever reads it next."""

from __future__ import annotations

import re

# The time that the kubelet puts before each line, to the nanosecond: 2025-11-02T09:41:07.123456789Z
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")


def new_lines(text: str, after: str) -> tuple[list[str], str]:
    """Return the lines that are later than a time, and the time of the last one.

    Args:
        text: a log as the API server gives it with timestamps.
        after: as this function returned it; "" for all lines.
    """
    lines: list[str] = []
    last = after
    for line in text.split("\n"):
        stamp = _STAMP.match(line)
        if not stamp:
            continue
        time = f"{stamp[1]}.{(stamp[2] or '').ljust(9, '0')}"  # of equal length: text order is time order
        if time <= after:
            continue
        last = max(last, time)
        # A progress bar writes over its line: what a person would see last is what counts.
        shown = line[stamp.end() :].rstrip("\r").rsplit("\r", 1)[-1].rstrip()
        if shown:
            lines.append(shown)
    return lines, last
