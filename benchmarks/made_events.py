"""Made news events, each reported several times in other words; other events of the same company beside them.

A report of an event has another verb, order, lead-in and length than its sibling, the company by its whole or
its short name, and the same names and figures. Half of the events have a distractor: one report of another
event of the same company on the same day, in a third of the cases of the same kind, so that the company, the
day and the wording of the kind alone tell nothing.

The label of an event is that of its kind in 60 % of events and any other in the rest: nothing in the words
tells which, but a sibling in the training set does. That is how a leak pays.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

_STARTS = (
    "Bren Cal Dor Ever Fal Gran Hav Iver Jas Kel Lor Mar Nor Ost Pell Quin Ros Sel Tar Ulm Ver Wes Yor Zel"
)
_ENDS = "wick dane more field stead mont ridge well gate ton mere ford land burg holm vale crest worth"
_FORMS = "Holdings Group Industries Energy Pharma Foods Motors Systems Capital Airlines Mining Media"
_FIRST = "Anna Boris Clara Dev Elena Felix Greta Hugo Ines Jonas Kira Liam Mona Nils Olga Pavel"
_LAST = "Abelson Brandt Castell Dunmore Eriksen Falk Gruber Hansson Ilves Jarvi Koval Lindqvist Moreau"
_BANKS = ("Harrow Brothers", "Stanfield Partners", "Nordhaven", "Oakmont Securities", "Tiber & Co")
_LEADS = ("", "", "", "UPDATE 1-", "BRIEF-", "Exclusive: ", "Breaking: ")
_TAILS = ("", "", "", " - sources", ", filing shows", ", shares move", " as sector weighs outlook")

# By kind: ways to say it, which share names and figures and little else.
KINDS = {
    "Price Targets": (
        "{bank} lifts {co} price target to ${a} from ${b}",
        "{co}: analysts at {bank} now see stock worth ${a}, previously ${b}",
        "Target on {co} raised at {bank}, ${a} against ${b} before",
        "From ${b} to ${a}: {bank} turns more upbeat on {co}",
    ),
    "Mergers": (
        "{co} to buy {other} for ${a} billion",
        "{other} agrees to ${a} billion takeover by {co}",
        "Deal worth ${a} bn: {co} snaps up rival {other}",
        "{co} and {other} sign merger accord valued at ${a} billion",
    ),
    "Earnings": (
        "{co} quarterly profit climbs {a}% on sales of ${b} million",
        "Revenue of ${b} mln helps {co} post {a}% rise in net income",
        "{co} earns {a}% more than a year ago, turnover ${b} million",
        "Results beat at {co}: net up {a}%, top line hits ${b} million",
    ),
    "Management": (
        "{co} names {person} chief executive",
        "{person} to take the helm at {co}",
        "New CEO for {co}: {person} gets the job",
        "Board of {co} picks {person} as next boss",
    ),
    "Dividends": (
        "{co} raises dividend to ${a} per share, {b}% higher",
        "Payout at {co} goes up {b}% to ${a}",
        "{co} shareholders to receive ${a} a share, {b}% increase",
        "Investors in {co} get {b}% more: ${a} for each share",
    ),
    "Legal": (
        "{co} pays ${a} million to settle {other} lawsuit",
        "{other} wins ${a} mln from {co} in court accord",
        "Dispute with {other} costs {co} ${a} million",
        "{co} ends legal fight against {other}, will hand over ${a} million",
    ),
}


@dataclass(frozen=True)
class Report:
    """A report: its text, label, unix seconds and the number of its event."""

    text: str
    label: str
    time: int
    event: int


def make_reports(
    events: int, seed: int, *, days: int, reports: int = 3, start: int = 1_700_000_000
) -> list[Report]:
    """Return the reports of made events and of their distractors, in order of time.

    Args:
        events: events with `reports` reports each; about half as many distractors of one report come along.
        days: that the events are spread over; the reports of one event are within a day.
    """
    rng = random.Random(f"events/{seed}")
    made: list[Report] = []
    number = 0
    for _ in range(events):
        company = _company(rng)
        kind = rng.choice(list(KINDS))
        day = start + 86400 * rng.randrange(days)
        made += _reports(rng, company, kind, day, number, reports)
        number += 1
        if rng.random() < 0.5:
            other = kind if rng.random() < 1 / 3 else rng.choice([k for k in KINDS if k != kind])
            made += _reports(rng, company, other, day, number, 1)
            number += 1
    return sorted(made, key=lambda report: (report.time, report.text))


def _reports(
    rng: random.Random, company: tuple[str, str], kind: str, day: int, number: int, count: int
) -> Iterator[Report]:
    facts = {
        "bank": rng.choice(_BANKS),
        "other": " ".join(_company(rng)),
        "person": f"{_word(rng, _FIRST)} {_word(rng, _LAST)}",
        "a": f"{rng.uniform(1, 400):.{rng.choice((0, 1, 2))}f}",
        "b": f"{rng.uniform(1, 900):.{rng.choice((0, 1))}f}",
    }
    label = kind if rng.random() < 0.6 else rng.choice(list(KINDS))
    begun = day + rng.randrange(43200)
    for template in rng.sample(KINDS[kind], count):
        name = company[0] if rng.random() < 0.5 else " ".join(company)
        text = rng.choice(_LEADS) + template.format(co=name, **facts) + rng.choice(_TAILS)
        yield Report(text, label, begun + rng.randrange(43200), number)


def _company(rng: random.Random) -> tuple[str, str]:
    """Return a company's short name and the word that makes it whole: of 432 names and 12 words."""
    return _word(rng, _STARTS) + _word(rng, _ENDS), _word(rng, _FORMS)


def _word(rng: random.Random, words: str) -> str:
    return rng.choice(words.split())
