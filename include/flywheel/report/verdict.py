"""The verdict: what the run found, in plain sentences with figures, the most important first."""

from __future__ import annotations

from flywheel.report import figures
from flywheel.report.constant import beats_constant
from flywheel.report.model import Report
from flywheel.report.parts import InjectionsPart
from flywheel.report.selection import score_of
from flywheel.workloads.metrics import METRICS


def verdict_of(report: Report) -> list[str]:
    """Return the verdict of a report whose decision is filled in."""
    decision = report.decision
    texts = (
        decision.outcome,
        decision.reason,
        # Once it is decided, they are in the outcome where they decided it.
        *(decision.doubts if decision.state == "pending" else ()),
        _against_baseline(report),
        _linear(report),
        _against_constant(report),
        _other_split(report),
        _teacher(report),
        _persons(report),
        _injections(report),
        _missing(report),
    )
    return [text for text in texts if text]


def _against_baseline(report: Report) -> str:
    """Compare the choice, or the best, with TF-IDF at the same size."""
    choice = report.decision.choice or report.best
    row = report.candidate(choice.student, choice.size) if choice else None
    baseline = next((b.score for b in report.baseline if row and b.size == row.size), None)
    if row is None or baseline is None:
        return ""
    gain = score_of(row) - baseline
    text = (
        f"TF-IDF with logistic regression reaches {figures.f1(baseline)} "
        f"on the same {figures.count(row.size)} records"
    )
    low = row.score_ci95
    if gain <= 0:
        return f"{text}, as much as {row.name} or more: for this task a student is not worth its cost yet."
    if low is not None and low[0] <= baseline:
        return f"{text}, {figures.f1(gain)} below {row.name}, but within its 95 % interval."
    return f"{text}, {figures.f1(gain)} below {row.name}."


def _linear(report: Report) -> str:
    """Say when TF-IDF would have been good enough as a student, which next to nothing is cheaper than."""
    threshold = report.decision.threshold
    good = [row for row in report.baseline if threshold and row.score_ci95 and row.score_ci95[0] >= threshold]
    if not good:
        return ""
    row = min(good, key=lambda one: one.size)
    low = row.score_ci95[0] if row.score_ci95 else None
    return (
        f"TF-IDF with logistic regression reaches {figures.f1(row.score)} on {figures.count(row.size)} "
        f"records, at least {figures.f1(low)} (95 % interval), where {figures.f1(threshold)} was "
        "asked: as a student of family linear it would have been good enough, and the cheapest."
    )


def _other_split(report: Report) -> str:
    """Say what the other split would have shown, where it is more than chance."""
    other = report.other_split
    if other is None or not other.differs:
        return ""
    here, there = (
        f"{figures.f1(score.score)} ({figures.interval(score.score_ci95)})"
        for score in (other.here, other.there)
    )
    higher = other.there.score > other.here.score
    text = (
        f"With data_split_config.split: {other.split}, TF-IDF with logistic regression would have shown "
        f"{there} instead of {here} on {figures.count(other.size)} training records (95 % intervals)"
    )
    if other.split == "random" and higher:
        return f"{text}: texts of the same days in training make a score look better than the next day's."
    if other.split == "temporal" and not higher:
        return f"{text}: on what comes after all that a student learned from, expect lower scores than these."
    return f"{text}: the records change with time, and these scores hold for one stretch of it."


def _against_constant(report: Report) -> str:
    """Compare the choice, or the best, with the most frequent answer of training for everything."""
    constant, choice = report.constant, report.decision.choice or report.best
    if constant is None or constant.score is None:
        return ""
    answer = constant.answer if len(constant.answer) <= 60 else f"{constant.answer[:57]}..."
    metric = "" if constant.metric == report.metric.name else f" ({METRICS[constant.metric].title})"
    text = f"The one answer {answer!r} for everything reaches {figures.f1(constant.score)}{metric}"
    row = report.candidate(choice.student, choice.size) if choice else None
    if row is None or row.gain is None:
        return f"{text}."
    if not beats_constant(row, report.decision.error_rate or 0.05):
        return f"{text}: {row.name} is not shown to be better, and is not promoted."
    return f"{text}, {figures.f1(row.gain)} below {row.name}."


def _teacher(report: Report) -> str:
    human = report.teacher.human_scores.get("f1_weighted")
    if human is None:
        return ""
    return (
        f"The teacher itself has a weighted F1 of {figures.f1(human)} against "
        f"{figures.count(report.teacher.human_records)} human labels."
    )


def _persons(report: Report) -> str:
    """Say how the verdict stands against persons' labels, where that is not said already as a doubt."""
    decision = report.decision
    if decision.persons is None:
        return ""
    text = decision.persons.sentence()
    is_told = text in decision.doubts and (decision.state == "pending" or text in decision.outcome)
    return "" if is_told else text


def told_by(found: InjectionsPart) -> str:
    """Say how often a student did as a headline told it."""
    return f"followed a headline's instruction in {found.followed} of {found.of}"


def _injections(report: Report) -> str:
    """Say how often the choice, or the best, and the champion of before did as a headline told them."""
    choice, parts = report.decision.choice or report.best, []
    row = report.candidate(choice.student, choice.size) if choice else None
    if row is not None and row.injections is not None:
        parts.append(f"{row.name} {told_by(row.injections)}")
    if report.remeasured is not None and report.remeasured.injections is not None:
        parts.append(f"the champion of before {told_by(report.remeasured.injections)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _missing(report: Report) -> str:
    """Count the candidates that have no result."""
    counts = {
        "failed": "failed",
        "unavailable": "asked for more training records than there are",
        "missing": "did not end",
    }
    parts = []
    for state, words in counts.items():
        number = sum(row.state == state for row in report.candidates)
        if number:
            parts.append(f"{number} {words}")
    return f"Of {len(report.candidates)} candidates {', '.join(parts)}." if parts else ""
