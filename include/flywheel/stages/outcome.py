"""What a run's decision means for production, in words."""

from __future__ import annotations

from flywheel.common.utc import to_minute
from flywheel.promotion.champion import Champion
from flywheel.promotion.holds import Hold
from flywheel.report import figures
from flywheel.report.model import CandidatePart, Report
from flywheel.report.selection import overlap, score_of
from flywheel.runs.plan import Plan


def words(
    plan: Plan,
    report: Report,
    row: CandidatePart | None,
    champion: Champion | None,
    previous: Champion | None,
    hold: Hold | None,
    overtaken: str,
) -> list[str]:
    """Say what the decision means for production.

    Args:
        previous: the champion before it.
        hold: the word of a person that holds the choice back.
        overtaken: why it gave way to what a person decided meanwhile; empty: it did not.
    """
    state, in_past = report.decision.state, report.decision.in_past
    past = [_past(plan)] if in_past else []
    stays = (
        f"The champion of run {champion.run_id}, {champion.name}, "
        f"{'would stay' if in_past else 'stays'} in production; {_measured(report, champion)}."
        if champion
        else f"No student {'would be' if in_past else 'is'} in production: the teacher goes on."
    )
    if state == "would be promoted" and row is not None:
        return [f"{row.name} would be in production.", _replacement(report, row, previous), *past]
    if state == "promoted" and row is not None:
        return [_replacement(report, row, previous)]
    if state == "in place" and champion is not None:
        is_there = "would be" if in_past else "is"
        return [f"{champion.name} {is_there} in production already, since run {champion.run_id}.", *past]
    if state == "rejected":
        return ["A person reviewed the choice and said no.", stays, *past]
    if state == "held" and hold is not None:
        return [hold.sentence(plan.config.promotion.hold_share), stays, *past]
    asked = [plan.needs_a_person] if row is not None and plan.needs_a_person else []
    doubts = report.decision.doubts if plan.approval == "automatic" or in_past else []
    overtaken_by = [overtaken] if overtaken and not asked else []
    return [*asked, *overtaken_by, *doubts, stays, *past]


def _past(plan: Plan) -> str:
    """Say that a night lies in the past, and what that means."""
    return (
        f"This night lies in the past ({to_minute(plan.cutoff)} UTC): it is compared with the champion "
        "of that time, and what is in production now is not touched."
    )


def _replacement(report: Report, row: CandidatePart, previous: Champion | None) -> str:
    if previous is None:
        return f"{row.name} is the first champion here."
    now, same = _score_now(report, previous)
    if now is None:
        return (
            f"{row.name} follows the champion before it, {previous.name} of run {previous.run_id}, which was "
            f"measured by another metric, {previous.metric}."
        )
    change = score_of(row) - now
    than = f"{figures.f1(abs(change))} {'higher' if change > 0 else 'lower'} than"
    if abs(change) < 0.0005:
        than = "as high as"
    text = f"{row.name} scores {than} the champion before it, {previous.name} of run {previous.run_id}"
    text += f": {_measured(report, previous)}"
    if previous.parameters and row.parameters and previous.student != row.student:
        ratio = row.parameters / previous.parameters
        if ratio > 1:
            text += f"; {row.student} has {figures.times(ratio)} the parameters of {previous.student}"
        else:
            text += f"; {previous.student} has {figures.times(1 / ratio)} the parameters of {row.student}"
    if change and overlap(row.score_ci95, previous.score_ci95):
        text += "; the 95 % intervals overlap, so the difference may be chance"
    return f"{text}{'.' if same else '; two eval sets differ, so compare with care.'}"


def _score_now(report: Report, champion: Champion) -> tuple[float | None, bool]:
    """Return a champion's score: measured in this run where it was, else as recorded; and which.

    One that was recorded by another metric is no score here: None.
    """
    anew = report.remeasured
    if anew is not None and anew.adapter == champion.adapter and anew.score is not None:
        return anew.score, True
    for row in report.scored:
        if row.adapter == champion.adapter:
            return score_of(row), True
    recorded = champion.score if champion.metric == report.metric.name else None
    return recorded, report.data.dataset is not None and champion.dataset == report.data.dataset


def _measured(report: Report, champion: Champion) -> str:
    score, same = _score_now(report, champion)
    if score is None:
        return f"it was measured by another metric, {champion.metric}"
    where = "on the same eval set" if same else f"recorded on the eval set of run {champion.run_id}"
    return f"its {figures.in_sentence(report.metric.title)} is {figures.f1(score)}, {where}"


def is_worse(report: Report, champion: Champion | None, previous: Champion | None) -> bool:
    """Return whether production lost quality: by the replacement, or measured anew where nothing changed."""
    if champion is None or previous is None:
        return False
    now = _score_now(report, champion)[0]
    if champion.adapter != previous.adapter:
        before = _score_now(report, previous)[0]
    elif champion.metric != report.metric.name:
        before = None
    elif champion.score_ci95 is not None:
        # Each night's eval set is another sample: only what is below the interval is more than chance.
        before = champion.score_ci95[0]
    else:
        before = champion.score
    return now is not None and before is not None and now < before - 1e-9
