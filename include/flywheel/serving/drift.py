"""Whether the champion still agrees with the teacher as it did when it was promoted, night after night.

Each night gives so many audited answers, of which so many agree. The question is the first night from which
on agreement is below a level, and it is asked every night; so the test must be valid at all nights
together. It is an **e-detector** (Shin, Ramdas and Rinaldo, arXiv 2203.03532), of Shiryaev's and Roberts'
kind: each night another bet begins that from now on agreement is below the level, and all bets are summed.
A bet multiplies by the likelihood ratio of a lower agreement q and the level p,

    (q / p)^agree ((1 - q) / (1 - p))^(not),

whose mean is at most 1 while agreement is p or more (Howard, Ramdas, McAuliffe and Sekhon, Annals of
Statistics 49, 2021; Waudby-Smith and Ramdas, JRSS-B 86, 2024). So the mean of the sum over T nights is at
most T, and by Doob's inequality the chance that it ever reaches T / a is at most a. With T = 365 that
bounds a year of nights, however often it is looked at and however many champions there are; a new champion,
an alarm and a year's end begin it anew.

The level is the cascade's target where there is one: that is what was promised of what students answer.
Else it is the lower bound of the champion's agreement on its own eval set, at half of the error rate; the
nights have the other half.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

# Chance of a false alarm in a year of nights, of each of the two figures that are watched.
ERROR_RATE = 0.05
NIGHTS = 365
# A sum that reaches this is an alarm.
ALARM_AT = NIGHTS / (ERROR_RATE / 2)
# How far below the level the bets are, as shares of the distance from the level to 0: from two points of a
# level of .9, which take weeks to be seen, to a collapse, which one night shows.
_DROPS = np.array([0.02, 0.04, 0.08, 0.16, 0.32])


@dataclass
class Detector:
    """Sees a share fall below a level.

    Attributes:
        evidence: the sum of the bets; see `ALARM_AT`.
        nights: since it began.
    """

    level: float
    evidence: float = 0.0
    nights: int = 0

    def __post_init__(self) -> None:
        self._bets = np.zeros(len(_DROPS))

    @classmethod
    def of(cls, level: float, state: dict[str, Any] | None) -> Detector:
        """Return a detector that goes on from a state; None: it begins."""
        made = cls(level)
        if state is not None:
            made._bets, made.nights = np.array(state["bets"], float), int(state["nights"])
        return made

    @property
    def state(self) -> dict[str, Any]:
        """What the next night goes on from, as JSON."""
        return {"bets": self._bets.tolist(), "nights": self.nights}

    def night(self, agree: int, of: int) -> bool:
        """Take a night's counts; return whether this is an alarm, after which it begins anew."""
        if self.nights >= NIGHTS:
            self._begin()
        self.nights += 1
        level = min(self.level, 1 - 1e-6)
        lower = level * (1 - _DROPS)
        with np.errstate(over="ignore"):
            ratio = np.exp(
                agree * np.log(lower / level) + (of - agree) * (np.log1p(-lower) - math.log1p(-level))
            )
            self._bets = np.minimum(ratio * (self._bets + 1 / len(_DROPS)), 1e300)
        self.evidence = float(self._bets.sum())
        if self.evidence < ALARM_AT:
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        self._bets, self.nights = np.zeros(len(_DROPS)), 0


def level_of_eval(right: int, records: int) -> float:
    """Return what an agreement on an eval set is at least, but for half of the error rate."""
    return float(betaincinv(right, records - right + 1, ERROR_RATE / 2)) if right else 0.0


@dataclass(frozen=True)
class Share:
    """A share of production's requests, as a sample of them shows it.

    Attributes:
        value: weighted by how probable it was that each was drawn; None: none was.
        low, high: 95 % interval.
        of: drawn ones.
    """

    value: float | None = None
    low: float = 0.0
    high: float = 1.0
    of: int = 0


def share_of(drawn: Iterable[tuple[bool, float]]) -> Share:
    """Return a share and its interval, of requests that were drawn with known probabilities.

    The estimate is Hájek's; the interval Clopper and Pearson's at the effective number of draws (Kish; Korn
    and Graubard, Survey Methodology 24, 1998), which is their number where all were as probable.

    Args:
        drawn: whether each counts, and the probability that it was drawn.
    """
    pairs = list(drawn)
    if not pairs:
        return Share()
    weights = np.array([1 / probability for _, probability in pairs])
    hits = np.array([hit for hit, _ in pairs], float)
    value = float((weights * hits).sum() / weights.sum())
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    right = value * effective
    low = float(betaincinv(right, effective - right + 1, 0.025)) if right > 1e-9 else 0.0
    high = float(betaincinv(right + 1, effective - right, 0.975)) if effective - right > 1e-9 else 1.0
    return Share(value, low, high, len(pairs))


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    """Return the total variation distance of two distributions over classes: 0 the same, 1 nothing shared."""
    return sum(abs(one.get(name, 0.0) - other.get(name, 0.0)) for name in {*one, *other}) / 2


def shares(counts: Sequence[str]) -> dict[str, float]:
    """Return the share of each name."""
    total = max(1, len(counts))
    return {name: counts.count(name) / total for name in sorted(set(counts))}
