"""The event study: mean abnormal returns around headlines of a class, with bands of a cluster bootstrap.

Events of one company are not independent of each other, so companies are drawn, with all their events
(Cameron, Gelbach and Miller, 2008). Returns are in percent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BEFORE, AFTER = 3, 10
DRAWS = 500


@dataclass(frozen=True)
class Response:
    """What returns did around events.

    Attributes:
        events: how many.
        days: (d,) relative to the event.
        mean, low, high: (d,) mean abnormal return of a day, and its 95 % band.
        later: mean sum of the returns of days 1 to AFTER, and its 95 % band: what could be bought.
    """

    events: int
    days: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    later: tuple[float, float, float]

    @property
    def on_the_day(self) -> tuple[float, float, float]:
        """The mean abnormal return of the event's day, and its band."""
        return float(self.mean[BEFORE]), float(self.low[BEFORE]), float(self.high[BEFORE])


def response(
    returns: NDArray[np.float64], companies: NDArray[np.int64], days: NDArray[np.int64], seed: int = 1
) -> Response:
    """Return what returns did around events.

    Args:
        returns: [companies, days] percent.
        companies, days: (n,) of each event.
    """
    inside = (days >= BEFORE) & (days + AFTER < returns.shape[1])
    companies, days = companies[inside], days[inside]
    window = np.arange(-BEFORE, AFTER + 1)
    around = returns[companies[:, None], days[:, None] + window]  # [events, d]
    rows = np.column_stack([around, around[:, BEFORE + 1 :].sum(axis=1)])
    sums = np.zeros((returns.shape[0], rows.shape[1]))
    np.add.at(sums, companies, rows)
    counts = np.bincount(companies, minlength=returns.shape[0])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, returns.shape[0], (DRAWS, returns.shape[0]))
    total = np.maximum(counts[drawn].sum(axis=1), 1)
    draws = sums[drawn].sum(axis=1) / total[:, None]  # [draws, d + 1]
    mean = rows.mean(axis=0)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    later = (float(mean[-1]), float(low[-1]), float(high[-1]))
    return Response(len(rows), window, mean[:-1], low[:-1], high[:-1], later)
