"""Made headlines and made prices: what moves prices is known, and so is what must not be found.

Headlines are the demo's, a year of them, each of one of sixty made companies; a class moves its company's
price on the day, and by nothing afterwards. Besides them each company "is in talks", every other week, which
means nothing at all: the teacher calls it OTHER. Eight companies, though, are bought in the last quarter, and
then the same words about them are Mergers and Acquisitions. Their prices had drifted up after the talks of
before.

So a student of today has learned whose talks led to something. Let it label the past, and mergers seem to be
followed by a rise that anybody could have bought. Nobody could: no label of that day said so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from flywheel.demo.headlines import generate

START, END = date(2024, 1, 1), date(2025, 1, 1)
DAYS = (END - START).days
# From this day on the eight are bought, and said to be.
DEALS = date(2024, 10, 1)
COMPANIES, WINNERS = 60, 8
# What a class does to a price on the day of its headline, in percent: the truth that the study looks for.
TRUTH = {
    "Earnings": 1.2,
    "Price Targets": 0.8,
    "Dividends": 0.6,
    "Mergers and Acquisitions": 1.0,
    "Labour Issues": -0.9,
    "Regulatory": -0.7,
    "Guidance": -1.1,
}
# Percent a day, in the days after talks of the eight, before anybody knew.
DRIFT, DRIFT_DAYS = 0.5, 10
NOISE = 1.0
MERGERS = "Mergers and Acquisitions"
_SYLLABLES = ("vor", "kel", "tan", "mira", "dros", "pel", "zan", "hult", "bray", "quen", "lor", "sav")
_TALKS = (
    "{} in talks with unnamed party, people say",
    "{} holds talks about its options - sources",
    "{}: talks at an early stage, people familiar say",
)


@dataclass(frozen=True)
class Item:
    """A headline: its text and ISO time, the teacher's label, and the number of its company."""

    text: str
    when: str
    label: str
    company: int


def names(rng: random.Random) -> list[str]:
    """Return the names of the made companies, the eight first."""
    found: dict[str, None] = {}
    while len(found) < COMPANIES:
        found["".join(rng.sample(_SYLLABLES, 2)).capitalize()] = None
    return list(found)


def headlines(count: int, seed: int = 3) -> list[Item]:
    """Return a year's headlines in order of time: so many of the demo's, and the talks."""
    rng = random.Random(seed)
    items = [
        Item(item.text, item.timestamp, item.teacher_label, rng.randrange(COMPANIES))
        for item in generate(count, seed=seed, start=START, end=END)
    ]
    for company, name in enumerate(names(rng)):
        for week in range(0, DAYS // 7, 2):
            day = START + timedelta(days=week * 7 + rng.randrange(7))
            is_deal = company < WINNERS and day >= DEALS
            for _ in range(3 if is_deal else 1):
                when = datetime(
                    day.year, day.month, day.day, rng.randrange(7, 18), rng.randrange(60), tzinfo=UTC
                )
                text = rng.choice(_TALKS).format(name)
                items.append(Item(text, when.isoformat(), MERGERS if is_deal else "OTHER", company))
    return sorted(items, key=lambda item: (datetime.fromisoformat(item.when), item.text))


def prices(items: list[Item], seed: int = 4) -> NDArray[np.float64]:
    """Return daily abnormal returns in percent: [companies, days], the market's mean taken out."""
    rng = np.random.default_rng(seed)
    returns = rng.normal(0, NOISE, (COMPANIES, DAYS + 40))
    for item in items:
        day = day_of(item.when)
        talks = "talks" in item.text and item.company < WINNERS
        if talks and item.label != MERGERS:
            returns[item.company, day + 1 : day + 1 + DRIFT_DAYS] += DRIFT
        elif not talks:
            returns[item.company, day] += TRUTH.get(item.label, 0.0)
    return returns - returns.mean(axis=0)


def day_of(when: str) -> int:
    """Return the day of an ISO time, counted from the first."""
    return (datetime.fromisoformat(when).date() - START).days
