"""What an answer costs, and which candidates are cheapest: as measured, but never by noise.

Cost is a student's, for all its sizes compute the same: the median over its candidates, from the lowest to
the highest end of their intervals, so that what differs between jobs of one student is known to be noise. It
is money where there are prices, else time. Of two students whose intervals overlap, or that lie less than a
fifth apart, the one with fewer parameters is the cheaper; of one student the candidate on fewer records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Protocol, TypeVar

from flywheel.evaluation.choice import Measured, cost_of

# Students that are nearer than so many times are equally dear: other work on a machine makes as much.
NEAR = 1.2
Interval = tuple[float, float, float]


class Timed(Measured, Protocol):
    """A candidate with what its answers took."""

    @property
    def student(self) -> str:
        """Short name."""

    @property
    def answer_seconds(self) -> Interval | None:
        """Seconds an answer: median and interval; see `median_interval`."""

    @property
    def per_million(self) -> float | None:
        """Money for a million answers; None without a price."""


Row = TypeVar("Row", bound=Timed)


def median_interval(values: Sequence[float]) -> Interval | None:
    """Return the median and its 95 % interval, by order statistics: the ends, where values are few."""
    if not values:
        return None
    ordered, count = sorted(values), len(values)
    below = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    return median(ordered), ordered[below], ordered[count - 1 - below]


def per_million(seconds: float, hour: float) -> float:
    """Return the money for a million answers, from the seconds of one and the price of an hour."""
    return seconds * 1e6 / 3600 * hour


def cheapest_first(rows: Sequence[Row]) -> list[Row]:
    """Return candidates in order of cost; by parameters and records alone where one was not timed."""
    if not rows or any(row.answer_seconds is None for row in rows):
        return sorted(rows, key=cost_of)
    has_prices = all(row.per_million is not None for row in rows)
    spans = {name: _span([row for row in rows if row.student == name], has_prices) for name in _names(rows)}
    rank: dict[str, int] = {}
    first: Interval | None = None
    for name in sorted(spans, key=lambda name: spans[name][0]):
        middle, low, _ = spans[name]
        if first is None or (low > first[2] and middle > NEAR * first[0]):
            first = spans[name]
            rank[name] = len(rank)
        else:
            rank[name] = max(rank.values())
    return sorted(rows, key=lambda row: (rank[row.student], *cost_of(row)))


def _names(rows: Sequence[Timed]) -> list[str]:
    return list(dict.fromkeys(row.student for row in rows))


def _span(rows: Sequence[Timed], has_prices: bool) -> Interval:
    """Return cost and its ends of one student, over its candidates."""
    spans = []
    for row in rows:
        assert row.answer_seconds is not None
        middle, low, high = row.answer_seconds
        scale = (row.per_million or 0.0) / middle if has_prices and middle else 1.0
        spans.append((middle * scale, low * scale, high * scale))
    return (
        median(span[0] for span in spans),
        min(span[1] for span in spans),
        max(span[2] for span in spans),
    )
