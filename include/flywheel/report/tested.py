"""What was tested before a promotion, and how sure each answer is, in plain words."""

from __future__ import annotations

from flywheel.config.promotion import PromotionConfig
from flywheel.evaluation.statistics import bound_of_difference
from flywheel.report import figures
from flywheel.report.model import CandidatePart, Report
from flywheel.workloads.metrics import METRICS


def how_tested(report: Report, promotion: PromotionConfig) -> list[str]:
    """Return the tests of a report in sentences: what was asked, of how many, how sure the answers are."""
    decision = report.decision
    if not decision.tested or decision.threshold is None or decision.error_rate is None:
        return []
    choice = decision.choice
    row = report.candidate(choice.student, choice.size) if choice else None
    return [
        _asked(report, promotion, decision.threshold, decision.error_rate),
        _passed(report),
        *([_bound(report, row, promotion, decision.threshold)] if row else []),
        *_constant(report, row),
        *_eval(report, row, promotion),
        *_compared(report, decision.error_rate),
    ]


def _asked(report: Report, promotion: PromotionConfig, threshold: float, rate: float) -> str:
    count = figures.count(report.decision.tested)
    candidates = (
        f"{count} candidates were tested" if report.decision.tested > 1 else "One candidate was tested"
    )
    title = figures.in_sentence(report.metric.title)
    if promotion.of == "teacher":
        return (
            f"{candidates}, from the largest size of the dearest student down: the chance that any of them "
            f"passes whose true {title} against the teacher is below {figures.f1(threshold)} is at most "
            f"{figures.chance(rate)}."
        )
    return (
        f"{candidates} against the best of them: the chance that any passes whose true {title} is more than "
        f"{figures.f1(promotion.within)} below that one's is at most {figures.chance(rate)}."
    )


def _passed(report: Report) -> str:
    names = [f"{row.student} @ {figures.count(row.size)}" for row in report.scored if row.passes]
    if not names:
        return "None passes."
    passed = "1 passes" if len(names) == 1 else f"{len(names)} pass"
    return f"{passed}: {', '.join(names)}; the cheapest of them is chosen."


def _bound(report: Report, row: CandidatePart, promotion: PromotionConfig, threshold: float) -> str:
    found = f"{row.name} scores {figures.f1(row.score)} on {figures.count(row.eval_records)} records"
    if row.score_low is None or row.test_rate is None or promotion.of != "teacher":
        return f"{found}, {figures.f1(threshold)} was asked."
    return (
        f"{found} and so is at least {figures.f1(row.score_low)}, but for a chance of "
        f"{figures.chance(row.test_rate)}; {figures.f1(threshold)} was asked of this bound."
    )


def _constant(report: Report, row: CandidatePart | None) -> list[str]:
    if row is None or row.gain is None or row.test_rate is None or report.constant is None:
        return []
    low = bound_of_difference(row.gain, row.gain_error or 0.0, row.test_rate)
    return [
        f"It scores {row.gain:+.3f} beside one constant answer for everything, at least {low:+.3f} but for "
        "the same chance; more than 0 was asked."
    ]


def _eval(report: Report, row: CandidatePart | None, promotion: PromotionConfig) -> list[str]:
    if row is None or not promotion.min_eval:
        return []
    return [
        f"A run needs {figures.count(promotion.min_eval)} eval records to promote by itself "
        f"(promotion.min_eval); this one has {figures.count(row.eval_records)}."
    ]


def _compared(report: Report, rate: float) -> list[str]:
    found, choice = report.decision.comparison, report.decision.choice
    if found is None or choice is None:
        return []
    asked = "above 0, as it is not cheaper"
    if found.needed < 0:
        asked = f"{found.needed:+.3f}, as it is cheaper"
    out = f" ({figures.count(found.seen)} that the champion has seen are left out)" if found.seen else ""
    is_own = found.metric == report.metric.name
    by = "" if is_own else f" by {figures.in_sentence(METRICS[found.metric].title)}"
    outcome = "passed" if found.passes else "not passed"
    return [
        f"Beside the champion in production, on the same {figures.count(found.records)} records{out}, "
        f"{choice.student} @ {choice.size} scores {found.difference:+.3f}{by}, at least {found.low:+.3f} but "
        f"for a chance of {figures.chance(rate)}; asked was {asked}: {outcome}."
    ]
