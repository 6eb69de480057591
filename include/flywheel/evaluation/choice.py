"""Which candidates are shown to be good enough, with one error rate over all of them.

* Against the teacher: the **fallback procedure** (Wiens, Pharmaceutical Statistics 2, 2003; Wiens and
  Dmitrienko, J. Biopharmaceutical Statistics 15, 2005). Candidates are tested in an order that is fixed
  before any score is seen. The first has three quarters of the error rate, the others share the rest, and one
  that passes hands its share on to the next. The chance that any passes wrongly is the rate, however many
  there are, and a dear student that fails does not stop a cheaper one. The order is the largest size from the
  dearest student down, then the next size: what is most likely to pass comes first.
* Against the best candidate: Bonferroni over the others, for which is best is seen from the same scores.
  Their errors are taken as independent, which is the safe side: what is hard for one is hard for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from flywheel.evaluation.statistics import bound_of_difference, lower_bound

# Scores are means of floats: a distance of exactly 0.1 must not fail by a last bit.
EPSILON = 1e-9
# Of the error rate, for the first candidate.
FIRST_SHARE = 0.75


class Measured(Protocol):
    """A student with a score in [0, 1], its standard error and the records that it was measured on."""

    @property
    def size(self) -> int:
        """Training records."""

    @property
    def parameters(self) -> int | None:
        """What serving costs."""

    @property
    def score(self) -> float | None:
        """By the metric of promotion."""

    @property
    def score_error(self) -> float | None:
        """Standard error of the score."""

    @property
    def eval_records(self) -> int | None:
        """That it was measured on."""


Candidate = TypeVar("Candidate", bound=Measured)


def cost_of(candidate: Measured) -> tuple[float, int]:
    """Return what candidates are ordered by, cheapest first: parameters, then training records."""
    known = candidate.parameters is not None
    return (candidate.parameters if known else math.inf, candidate.size)  # type: ignore[return-value]


def low_of(candidate: Measured, rate: float) -> float:
    """Return the lower bound of a candidate's score; of one whose error is not known, 0."""
    if candidate.score is None or candidate.score_error is None or not candidate.eval_records:
        return 0.0
    return lower_bound(candidate.score, candidate.score_error, candidate.eval_records, rate)


def levels(
    candidates: Sequence[Candidate],
    bar: float,
    rate: float,
    also: Callable[[Candidate, float], bool] = lambda *_: True,
) -> list[tuple[Candidate, float, bool]]:
    """Return the candidates in the order of their tests, each with its own error rate and outcome.

    Args:
        candidates: those that have a score.
        bar: the score to reach; a candidate passes where `low_of` it, at its rate, does.
        rate: chance that one passes which does not reach it, over all.
        also: a further test that each must pass at its own rate; that both are passed wrongly is no likelier
            than that one is (an intersection-union test; Berger, Technometrics 24, 1982).
    """
    order = sorted(candidates, key=lambda one: (-one.size, -cost_of(one)[0]))
    first = rate if len(order) < 2 else FIRST_SHARE * rate
    tested: list[tuple[Candidate, float, bool]] = []
    handed_on = 0.0
    for candidate in order:
        level = handed_on + (first if not tested else (rate - first) / (len(order) - 1))
        passed = low_of(candidate, level) >= bar - EPSILON and also(candidate, level)
        tested.append((candidate, level, passed))
        handed_on = level if passed else 0.0
    return tested


def reaching(candidates: Sequence[Candidate], bar: float, rate: float) -> list[Candidate]:
    """Return the candidates that are shown to reach a score; see `levels`."""
    return [candidate for candidate, _, passed in levels(candidates, bar, rate) if passed]


def near_best(
    candidates: Sequence[Candidate], best: Candidate, within: float, rate: float
) -> list[Candidate]:
    """Return the best candidate and those that are shown to be within a distance of it.

    Args:
        candidates: those that have a score.
        rate: chance that one of them is further away, over all.
    """
    each = rate / max(1, len(candidates) - 1)
    passed = []
    for candidate in candidates:
        known = candidate.score_error is not None and best.score_error is not None
        assert candidate.score is not None
        assert best.score is not None
        if candidate is best:
            passed.append(candidate)
        elif known:
            error = math.hypot(candidate.score_error or 0.0, best.score_error or 0.0)
            if bound_of_difference(candidate.score - best.score, error, each) >= -within - EPSILON:
                passed.append(candidate)
    return passed


def margin_left(gains: Sequence[float], margin: float) -> float:
    """Return how much worse than the champion in force a cheaper one may be, so that margins do not add up.

    Args:
        gains: of the champions of the last 90 days, oldest first, each over the one before it, by the paired
            tests of their nights.
        margin: most that a champion may be below the best of them.
    """
    level = best = 0.0
    for gain in gains:
        level += gain
        best = max(best, level)
    return max(0.0, margin - (best - level))
