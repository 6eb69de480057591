"""Dated financial-news headlines of our own, with a human's and a teacher's label.

The headlines come from the grammar in `flywheel.demo.grammar`; `REFERENCE` statistics of real news
(length, vocabulary growth, class skew, near-duplicates) are what its word lists and weights were set to.
Names of companies, banks and people are invented.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from flywheel.demo.grammar import Event, Scene, draw_event, retell_event
from flywheel.demo.grammar import names as _names

DEFAULT_SEED = 20251
DEFAULT_START = date(2024, 1, 1)
DEFAULT_END = date(2025, 10, 1)

# How often an event is reported once more, in other words, and how many seconds later.
_FURTHER_REPORTS = 0.2
_MEAN_DELAY = 4 * 3600

_PREFIXES = [
    "UPDATE 1-", "UPDATE 2-", "Exclusive: ", "UPDATE: ", "BRIEF-", "CORRECTION: ", "RPT-", "Breaking: ",
    "Analysis: ",
]  # fmt: skip
_SOURCES = [" - sources", ": sources", " - filing", ": CEO", " - report", ": source", " - memo"]
_SMALL = frozenset(
    {
        "a",
        "an",
        "and",
        "as",
        "at",
        "by",
        "for",
        "from",
        "in",
        "of",
        "on",
        "or",
        "over",
        "the",
        "to",
        "vs",
        "with",
    }
)


@dataclass(frozen=True, slots=True)
class DemoHeadline:
    """One headline.

    `timestamp` is an ISO date-time in UTC. `human_label` is the class that the taxonomy's rules give,
    `teacher_label` what a good but imperfect teacher says. `kind` names the event, or two joined by `+`.
    """

    text: str
    timestamp: str
    human_label: str
    teacher_label: str
    kind: str


def generate(
    count: int, seed: int = DEFAULT_SEED, start: date = DEFAULT_START, end: date = DEFAULT_END
) -> Iterator[DemoHeadline]:
    """Yield `count` headlines dated in [start, end), in no order of time but for events of several reports.

    The same seed and dates give the same headlines, and a smaller count their first ones. Memory stays flat.

    Raises:
        ValueError: `count` is negative or `end` is not after `start`.
    """
    for number, (event, when) in enumerate(_reports(count, seed, start, end)):
        if number == count:
            return
        yield DemoHeadline(
            text=event.text,
            timestamp=when.isoformat().replace("+00:00", "Z"),
            human_label=event.human_label,
            teacher_label=event.teacher_label,
            kind="+".join(kind.name for kind in event.kinds),
        )


def _reports(count: int, seed: int, start: date, end: date) -> Iterator[tuple[Event, datetime]]:
    """Yield events, of some more reports: other words, from minutes to a day later, by no other teacher."""
    rng = random.Random(f"reports/{seed}")
    last = datetime(end.year, end.month, end.day, tzinfo=UTC)
    for event, when in generate_events(count, seed, start, end):
        yield event, when
        while rng.random() < _FURTHER_REPORTS:
            when += timedelta(seconds=int(rng.expovariate(1 / _MEAN_DELAY)) + 60)
            further = retell_event(event, rng)
            if further is None or when >= last:
                break
            yield replace(further, text=_dress(further, rng)), when


def generate_events(
    count: int, seed: int = DEFAULT_SEED, start: date = DEFAULT_START, end: date = DEFAULT_END
) -> Iterator[tuple[Event, datetime]]:
    """Yield what `generate` does with the event's structure kept: its kinds and the facts in its text."""
    if count < 0:
        raise ValueError(f"count must be 0 or more, not {count}")
    if end <= start:
        raise ValueError(f"end ({end}) must be after start ({start})")
    rng = random.Random(f"headlines/{seed}")
    midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
    days = (end - start).days
    for _ in range(count):
        when = _moment(rng, midnight, days)
        event = draw_event(Scene(rng, when.year, when.month))
        yield replace(event, text=_dress(event, rng)), when


def _moment(rng: random.Random, midnight: datetime, days: int) -> datetime:
    """A second in the range: fewer on weekends, most of them in the trading hours of Europe and America."""
    day = midnight + timedelta(days=int(rng.random() * days))
    if day.weekday() >= 5 and rng.random() < 0.75:
        moved = day - timedelta(days=day.weekday() - 4)
        day = moved if moved >= midnight else day
    hour = 6 + 16 * (rng.random() + rng.random()) / 2 if rng.random() < 0.9 else 24 * rng.random()
    return day + timedelta(seconds=int(hour * 3600))


def _dress(event: Event, rng: random.Random) -> str:
    """The event's text as a desk would send it: title case, a prefix, a source, a ticker."""
    text = " ".join(event.text.split()).replace(" ,", ",").replace(" ;", ";").replace(" ?", "?")
    text = text[:1].upper() + text[1:]
    if rng.random() < 0.4:
        text = " ".join(word if word in _SMALL else word[:1].upper() + word[1:] for word in text.split(" "))
    u = rng.random()
    if u < 0.07:
        text = _PREFIXES[int(rng.random() * len(_PREFIXES))] + text
    u = rng.random()
    if u < 0.05:
        text += f" ({', '.join(_names.ticker(rng) for _ in range(1 + int(3 * rng.random() ** 2)))})"
    elif u < 0.12:
        text += rng.choice(_SOURCES)
    elif u < 0.17:
        text += rng.choice([" -", " - ", ": "]) + Scene(rng, 2024, 1).word("paper")
    return text


def write_csv(
    path: Path | str,
    count: int,
    seed: int = DEFAULT_SEED,
    start: date = DEFAULT_START,
    end: date = DEFAULT_END,
    human_labelled: int = 600,
) -> int:
    """Write headlines to `path` with the columns date, headline, human_label, teacher_label.

    The first `human_labelled` rows carry a human label, the others an empty field. Rows are in no order of
    time, so the labelled ones are a random sample of events. Returns the number of rows written.
    """
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "headline", "human_label", "teacher_label"])
        for row, item in enumerate(generate(count, seed, start, end)):
            human = item.human_label if row < human_labelled else ""
            writer.writerow([item.timestamp, item.text, human, item.teacher_label])
    return count
