"""Why headlines have no label, counted by what is wrong, for the log and the report."""

from __future__ import annotations

import re
from collections import Counter

from flywheel.teacher.labeller import NO_CLASS

# A message that repeats its headline is another for each: beyond so many kinds they are counted together.
_MOST_KINDS = 50
_SHOWN = 5
_REPORTED = 10
_OTHERS = "other reasons"
_ADDRESS = re.compile(r"^the teacher at \S+ said ")
_NIGHTS = re.compile(r" \(asked for on \d+ nights, and not again\)$")


class WithoutLabel:
    """Counts reasons as `Outcome` has them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count a headline."""
        kind = _ADDRESS.sub("the teacher said ", _NIGHTS.sub("", reason)).removeprefix(f"{NO_CLASS}: ")[:200]
        self._counts[kind if kind in self._counts or len(self._counts) < _MOST_KINDS else _OTHERS] += 1

    def reasons(self) -> dict[str, int]:
        """Return the highest counts, and the others together."""
        found = Counter(dict(self._counts.most_common(_REPORTED)))
        if rest := self._counts.total() - found.total():
            found[_OTHERS] += rest
        return dict(found)

    def line(self) -> str:
        """Return them in a sentence; empty where there are none."""
        if not self._counts:
            return ""
        shown = "; ".join(f"{count:,}: {kind}" for kind, count in self._counts.most_common(_SHOWN))
        rest = self._counts.total() - sum(count for _, count in self._counts.most_common(_SHOWN))
        more = f"; {rest:,} others" if rest else ""
        return f"{self._counts.total():,} headlines have no label. {shown}{more}"
