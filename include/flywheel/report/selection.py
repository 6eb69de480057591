"""Which candidate is to go into production, and why, in words.

The rule: of the candidates within the configured distance of the teacher (or of the best), the one with the
fewest parameters, for parameters are what serving costs every day; among equals the one trained on the
fewest records, for labels and training cost money too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flywheel.config.schema import PromotionConfig
from flywheel.report import figures
from flywheel.report.model import CandidatePart, MetricPart

# Scores are means of floats: a distance of exactly 0.1 must not fail by a last bit.
_EPSILON = 1e-9

Interval = tuple[float, float]


@dataclass(frozen=True)
class Choice:
    """The choice among the scored candidates.

    Attributes:
        candidate: None where no candidate is good enough.
        best: the one with the highest score; None where nothing was scored.
        threshold: the score to reach; None where nothing was scored.
        reason: in words, with the figures.
    """

    candidate: CandidatePart | None
    best: CandidatePart | None
    threshold: float | None
    reason: str


def score_of(row: CandidatePart) -> float:
    """Return the score of a scored candidate, by the report's metric."""
    assert row.score is not None
    return row.score


def cost_of(row: CandidatePart) -> tuple[float, int]:
    """Return what candidates are ordered by, cheapest first: parameters, then training records."""
    return (row.parameters if row.parameters is not None else float("inf"), row.size)


def best_of(rows: Sequence[CandidatePart]) -> CandidatePart | None:
    """Return the candidate with the highest score, the cheapest of equals; None where none is."""
    scored = [row for row in rows if row.state == "scored"]
    return min(scored, key=lambda row: (-score_of(row), *cost_of(row)), default=None)


def choose(
    rows: Sequence[CandidatePart], promotion: PromotionConfig, title: str = MetricPart().title
) -> Choice:
    """Choose the cheapest candidate that is good enough.

    Args:
        title: of the metric that the scores are.
    """
    best = best_of(rows)
    if best is None:
        return Choice(None, None, None, "No candidate has a result, so there is nothing to choose from.")
    reference = 1.0 if promotion.of == "teacher" else score_of(best)
    threshold = reference - promotion.within
    near = f"within {promotion.within:.2f} of {'the teacher' if promotion.of == 'teacher' else 'the best'}"
    good = [row for row in rows if row.state == "scored" and score_of(row) >= threshold - _EPSILON]
    if not good:
        reason = (
            f"No candidate is {near}, which asks for {figures.asked(title)} of {figures.f1(threshold)}: "
            f"the best, {best.name}, reaches {figures.f1(score_of(best))}, "
            f"{figures.f1(threshold - score_of(best))} short of it."
        )
        return Choice(None, best, threshold, reason)
    chosen = min(good, key=cost_of)
    sentences = [
        f"{chosen.name} reaches {figures.f1(score_of(chosen))}, {near} "
        f"(at least {figures.f1(threshold)} was asked), and is the cheapest that does."
        if len(good) > 1
        else f"{chosen.name} reaches {figures.f1(score_of(chosen))} and is the only candidate {near} "
        f"(at least {figures.f1(threshold)} was asked)."
    ]
    sentences += _against_best(chosen, best)
    low = chosen.score_ci95
    if low is not None and low[0] < threshold - _EPSILON:
        sentences.append(
            f"The 95 % interval of {chosen.name}, {figures.interval(low)}, reaches below what was asked: "
            "a larger eval set would make this surer."
        )
    return Choice(chosen, best, threshold, " ".join(sentences))


def overlap(one: Interval | None, other: Interval | None) -> bool | None:
    """Return whether two intervals overlap; None where one is not known."""
    if one is None or other is None:
        return None
    return one[0] <= other[1] and other[0] <= one[1]


def _against_best(chosen: CandidatePart, best: CandidatePart) -> list[str]:
    """Say what the best candidate would give and cost beside the chosen one."""
    if best is chosen:
        return ["No candidate scores higher."]
    gain = score_of(best) - score_of(chosen)
    at = f"{figures.times(best.size / chosen.size)} the training records"
    if best.student != chosen.student and best.parameters and chosen.parameters:
        at = f"{figures.times(best.parameters / chosen.parameters)} the parameters"
    text = f"{best.name} would gain {figures.f1(gain)} at {at}"
    if overlap(best.score_ci95, chosen.score_ci95):
        text += "; their 95 % intervals overlap, so that gain may be chance"
    return [f"{text}."]
