"""Stage 7: put the chosen candidate into production, or keep the champion that is there.

The order makes a kill harmless: the MLflow registry, then the champion file in one replacement, then the
timeline's entry, then the report. A retry finds what was done: the adapter's version in the registry, the
champion in its file, the entry. A night in the past writes the entry and the report alone. It takes 2.3 s of
CPU time, nearly all of it to open MLflow, and 0.1 s where the champion stays.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flywheel.artifacts import ArtifactRoot
from flywheel.champion import Champion, RegistryEntry, replace_champion
from flywheel.errors import ArtifactError
from flywheel.mlflow_client import TrackingError
from flywheel.plan import Plan
from flywheel.promotion.holds import NOBODY, Hold, lift_hold, place_hold
from flywheel.report import figures
from flywheel.report.files import HTML_FILE, write_report
from flywheel.report.model import REPORT_FILE, CandidatePart, Report
from flywheel.report.selection import overlap, score_of
from flywheel.report.verdict import verdict_of
from flywheel.stages.night import enter, hold_on, moment, night_of
from flywheel.stages.score import ScoreResult, production_part
from flywheel.tracking import register, track_files

log = logging.getLogger(__name__)


class PromoteResult(BaseModel):
    """What became of the run's choice.

    Attributes:
        promoted: this run put its candidate into production; a retry of the same run says so again.
        champion: what is in production now; None where nothing is. Of a night in the past: what would be, by
            the timeline.
        previous: what was, or would be, in production before.
        state: as the report's decision: promoted, in place, rejected, none, held or would be promoted.
        in_past: the night lies in the past: nothing that is in force was touched.
        reason: what happened and why, in words.
        worse: what is in production now scores lower than what was there before.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    promoted: bool
    champion: Champion | None
    previous: Champion | None
    state: str
    reason: str
    worse: bool
    in_past: bool = False


def promote(
    plan: Plan,
    folder: Path,
    scored: ScoreResult,
    *,
    approved: bool = True,
    comment: str = "",
    by: str = "",
) -> PromoteResult:
    """Put the chosen candidate into production, unless it was rejected or none is good enough.

    A person's no holds: see `flywheel.promotion.holds`. A person's yes lifts an earlier no. A night in the
    past only writes into the timeline what would be in production.

    Args:
        folder: the run's folder, with the report of the score stage; the decision is written into it.
        scored: names the chosen candidate.
        approved: a person's decision, or True where none is asked for.
        comment: of that person.
        by: that person's name; `NOBODY`: none answered in time.

    Raises:
        ArtifactError: the run was not scored, or the champion file is damaged or cannot be written.
    """
    started = time.monotonic()
    root = ArtifactRoot(plan.config.artifacts.root)
    try:
        report = Report.read(folder)
    except FileNotFoundError:
        raise ArtifactError(f"{folder / REPORT_FILE}: no such file; score the run first") from None
    choice = report.decision.choice
    row = report.candidate(choice.student, choice.size) if choice else None
    night = night_of(root, plan, row)
    standing, previous = night.standing, night.previous
    by_person = plan.approval == "human" and not night.in_past
    hold = None if by_person else hold_on(root, plan, report, night)
    if row is None:
        report.decision.state = "none"
    elif not approved:
        report.decision.state = "rejected"
    elif plan.needs_a_person:
        report.decision.state = "none"
    elif standing is not None and standing.adapter == row.adapter and standing.run_id != plan.run_id:
        report.decision.state = "in place"
    elif hold is not None:
        report.decision.state = "held"
    elif report.decision.doubts and not by_person:
        report.decision.state = "none"
    else:
        report.decision.state = "would be promoted" if night.in_past else "promoted"
    state = report.decision.state
    champion = standing
    if row is not None and state == "would be promoted":
        champion = champion_of(plan, report, row, reason=scored.reason, comment=comment, registry=None)
        champion = champion.model_copy(update={"promoted_at": moment(plan.cutoff)})
    elif row is not None and state in ("promoted", "in place") and not night.in_past:
        champion = _put_in_place(root, plan, report, row, standing, scored.reason, comment)
        if by_person or state == "promoted":
            lift_hold(root, plan.workload_id, plan.client_id, promoted=row.adapter)
    elif row is not None and row.adapter is not None and state == "rejected" and by != NOBODY:
        place_hold(
            root,
            plan.workload_id,
            plan.client_id,
            dataset=report.data.dataset,
            adapter=row.adapter,
            by=by,
            why="rejected",
            comment=comment,
        )
    report.decision.in_past = night.in_past
    report.decision.outcome = " ".join(_words(plan, report, row, champion, previous, hold))
    report.decision.comment = comment
    report.decision.worse = not night.in_past and _is_worse(report, champion, previous)
    report.production = production_part(champion) if champion else None
    is_champion = state in ("promoted", "in place") and not night.in_past
    report.champion = report.production if is_champion else None
    enter(root, plan, report, night, champion, by=by if by_person and by != NOBODY else "")
    report.verdict = verdict_of(report)
    report.stages["promote"] = round(time.monotonic() - started, 3)
    write_report(folder, report)
    _track_report(plan, folder, report)
    return PromoteResult(
        promoted=state == "promoted",
        champion=champion,
        previous=previous,
        state=state,
        reason=f"{report.decision.outcome} {report.decision.reason}",
        worse=report.decision.worse,
        in_past=night.in_past,
    )


def _put_in_place(
    root: ArtifactRoot,
    plan: Plan,
    report: Report,
    row: CandidatePart,
    standing: Champion | None,
    reason: str,
    comment: str,
) -> Champion:
    """Register the candidate and make it the champion; what was done already is left as it is."""
    assert row.adapter is not None
    registry = _registered_already(report, row, standing)
    if registry is None:
        try:
            registry = register(plan, row, reason)
        except TrackingError as error:
            _warn(report, f"Not in the MLflow model registry: {error}")
    if standing is not None and standing.adapter == row.adapter:
        champion = standing.model_copy(update={"registry": registry or standing.registry})
    else:
        champion = champion_of(plan, report, row, reason=reason, comment=comment, registry=registry)
    replace_champion(root, champion)
    return champion


def champion_of(
    plan: Plan,
    report: Report,
    row: CandidatePart,
    *,
    reason: str,
    comment: str,
    registry: RegistryEntry | None,
) -> Champion:
    """Return a candidate of a run as the champion that it is from now on."""
    assert row.adapter is not None
    student = plan.config.student(row.student)
    return Champion(
        workload_id=plan.workload_id,
        client_id=plan.client_id,
        student=row.student,
        model_name=student.model_name,
        weights=student.weights,
        size=row.size,
        parameters=row.parameters,
        adapter=row.adapter,
        adapter_path=f"adapters/{row.adapter}",
        dataset=report.data.dataset,
        evaluation=row.evaluation,
        metric=report.metric.name,
        score=score_of(row),
        score_ci95=row.score_ci95,
        f1_weighted=row.f1_weighted,
        f1_weighted_ci95=row.f1_weighted_ci95,
        run_id=plan.run_id,
        cutoff=plan.cutoff,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        comment=comment,
        registry=registry,
        gain=_gain(report, row),
    )


def _gain(report: Report, row: CandidatePart) -> float | None:
    """Return what the row wins over the champion before it, where it is the choice and was compared."""
    decision = report.decision
    if decision.comparison is None or decision.choice is None or decision.choice.adapter != row.adapter:
        return None
    return decision.comparison.difference


def _registered_already(
    report: Report, row: CandidatePart, standing: Champion | None
) -> RegistryEntry | None:
    """Return the registry's entry where scoring has seen it in force; that spares 2 s of opening MLflow."""
    seen = report.tracking.registered if report.tracking else None
    if standing is None or seen is None or not seen == standing.adapter == row.adapter:
        return None
    return standing.registry


def _words(
    plan: Plan,
    report: Report,
    row: CandidatePart | None,
    champion: Champion | None,
    previous: Champion | None,
    hold: Hold | None,
) -> list[str]:
    """Say what the decision means for production."""
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
    return [*asked, *doubts, stays, *past]


def _past(plan: Plan) -> str:
    """Say that a night lies in the past, and what that means."""
    return (
        f"This night lies in the past ({_day(plan.cutoff)}): it is compared with the champion of that time, "
        "and what is in production now is not touched."
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


def _is_worse(report: Report, champion: Champion | None, previous: Champion | None) -> bool:
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


def _track_report(plan: Plan, folder: Path, report: Report) -> None:
    """Put the report with the decision into MLflow, where the run is there already."""
    if report.tracking is None:
        return
    try:
        track_files(plan, report.tracking, [folder / HTML_FILE, folder / REPORT_FILE])
    except TrackingError as error:
        _warn(report, f"The report in MLflow is without the decision: {error}")
        write_report(folder, report)


def _warn(report: Report, text: str) -> None:
    log.warning("%s", text)
    if text not in report.warnings:
        report.warnings.append(text)


def _day(cutoff: int) -> str:
    return datetime.fromtimestamp(cutoff, UTC).strftime("%Y-%m-%d %H:%M UTC")
