"""Which candidate is to go into production, and why, in words.

The rule: of the candidates that are shown to be within the configured distance of the teacher (or of the
best; see flywheel.evaluation.choice), the cheapest by money or time as measured (flywheel.evaluation.cost),
for that is what serving costs every day; among equals the one with the fewest parameters, then the one
trained on the fewest records, for labels and training cost money too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flywheel.config.promotion import PromotionConfig
from flywheel.evaluation.choice import cost_of, levels, low_of, near_best
from flywheel.evaluation.cost import cheapest_first
from flywheel.report import figures
from flywheel.report.constant import beats_constant
from flywheel.report.model import CandidatePart
from flywheel.workloads.metrics import main_metric

Interval = tuple[float, float]


@dataclass(frozen=True)
class Choice:
    """The choice among the scored candidates.

    Attributes:
        candidate: None where no candidate is good enough.
        best: the one with the highest score; None where nothing was scored.
        threshold: the score to reach; None where nothing was scored.
        tested: candidates with a score.
        tests: of each, by name, its own error rate and whether it passes.
        is_ordered: they are in the order in which they were tested.
        reason: in words, with the figures.
    """

    candidate: CandidatePart | None
    best: CandidatePart | None
    threshold: float | None
    reason: str
    tested: int = 0
    tests: dict[str, tuple[float, bool]] = field(default_factory=dict)
    is_ordered: bool = False


def score_of(row: CandidatePart) -> float:
    """Return the score of a scored candidate, by the report's metric."""
    assert row.score is not None
    return row.score


def best_of(rows: Sequence[CandidatePart]) -> CandidatePart | None:
    """Return the candidate with the highest score, the cheapest of equals; None where none is."""
    scored = [row for row in rows if row.state == "scored"]
    return min(scored, key=lambda row: (-score_of(row), *cost_of(row)), default=None)


def choose(
    rows: Sequence[CandidatePart],
    promotion: PromotionConfig,
    title: str = main_metric("classification").title,
) -> Choice:
    """Choose the cheapest candidate that is shown to be good enough, and better than the constant answer.

    Args:
        title: of the metric that the scores are.
    """
    best = best_of(rows)
    if best is None:
        return Choice(None, None, None, "No candidate has a result, so there is nothing to choose from.")
    reference = 1.0 if promotion.of == "teacher" else score_of(best)
    threshold = reference - promotion.within
    rate = promotion.error_rate
    near = f"within {promotion.within:.2f} of {'the teacher' if promotion.of == 'teacher' else 'the best'}"
    scored = [row for row in rows if row.state == "scored"]
    if promotion.of == "teacher":
        tested = levels(scored, threshold, rate, beats_constant)
        good = [row for row, _, passed in tested if passed]
        tests = {row.name: (own, passed) for row, own, passed in tested}
    else:
        near_the_best = near_best(scored, best, promotion.within, rate)
        good = [row for row in near_the_best if beats_constant(row, rate / len(scored))]
        each = rate / max(1, len(scored) - 1)
        tests = {row.name: (each, row in good) for row in scored}
    level = {name: own for name, (own, _) in tests.items()} if promotion.of == "teacher" else {}
    sure = f"with {100 * (1 - rate):.1f} % confidence over {figures.count(len(scored))} candidates"
    if not good:
        reason = (
            f"No candidate is shown to be {near}, which asks for {figures.asked(title)} of "
            f"{figures.f1(threshold)}: the best, {_bounded(best, level.get(best.name, rate))}, {sure}."
        )
        useless = [row for row in scored if not beats_constant(row, rate)]
        if len(useless) == len(scored):
            reason += " None is shown to beat one constant answer for everything, so none has a use."
        elif best in useless:
            reason += " The best is not shown to beat one constant answer for everything."
        return Choice(None, best, threshold, reason, len(scored), tests, promotion.of == "teacher")
    chosen = cheapest_first(good)[0]
    sentences = [
        f"{_bounded(chosen, level.get(chosen.name, rate))}, {sure}, {near} "
        f"(at least {figures.f1(threshold)} was asked), and is the "
        f"{'cheapest' if len(good) > 1 else 'only one'} that is shown to be."
    ]
    sentences += _against_best(chosen, best)
    return Choice(chosen, best, threshold, " ".join(sentences), len(scored), tests, promotion.of == "teacher")


def _bounded(row: CandidatePart, rate: float) -> str:
    return f"{row.name} reaches {figures.f1(score_of(row))}, at least {figures.f1(low_of(row, rate))}"


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
