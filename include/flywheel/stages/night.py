"""A night's place in the timeline: who it is compared with, what holds its choice back, and its entry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import Champion, Decision, champion_history, decisions, read_state
from flywheel.promotion.holds import Hold, holds_back
from flywheel.promotion.timeline import Entry, Timeline, now
from flywheel.report.model import CandidatePart, Report
from flywheel.runs.plan import Plan

Outcome = Literal["promoted", "kept", "none", "held", "rejected", "refused"]


class NightState(NamedTuple):
    """Where a night stands when it decides.

    Attributes:
        in_past: it changes nothing that is in force.
        standing: the champion that its choice is compared with: in force, or of the timeline at its cutoff.
        previous: the same; where this run's first try promoted already, the champion before it.
        compared_with: name of the timeline's entry that names it; None where it is in force.
    """

    in_past: bool
    standing: Champion | None
    previous: Champion | None
    compared_with: str | None


def night_of(root: ArtifactRoot, plan: Plan, row: CandidatePart | None, state: Decision | None) -> NightState:
    """Return where a night stands.

    Args:
        row: its choice; one that this run has put in force already is found so, whatever came after.
        state: the champion's.
    """
    line = Timeline.of(root, plan)
    standing = state.champion if state else None
    ours = (plan.run_id, row.adapter if row else None)
    is_own = standing is not None and (standing.run_id, standing.adapter) == ours
    if not is_own and line.is_past(plan):
        entry = line.entry_before(plan.cutoff)
        champion = entry.champion if entry else None
        return NightState(True, champion, champion, entry.name if entry else None)
    return NightState(False, standing, _before_this_run(root, plan, standing), None)


def _before_this_run(root: ArtifactRoot, plan: Plan, standing: Champion | None) -> Champion | None:
    """Return the champion before this run; where this run's first try promoted already, the one before it."""
    if standing is None or standing.run_id != plan.run_id:
        return standing
    earlier = [c for c in champion_history(root, plan.workload_id, plan.client_id) if c.run_id != plan.run_id]
    return earlier[-1] if earlier else None


def hold_on(
    root: ArtifactRoot, plan: Plan, report: Report, night: NightState, state: Decision | None
) -> Hold | None:
    """Return a person's word that keeps a night's choice from being promoted by itself; None: it may be.

    What is in production already is not promoted, so that nothing holds it back. Of a night in the past, what
    held at its cutoff counts, and only what was said until then. What a person turned down stays so while
    nobody promotes it, also where the hold has ended.

    Args:
        state: the champion's.
    """
    choice = report.decision.choice
    if choice is None or choice.adapter is None:
        return None
    if night.standing is not None and night.standing.adapter == choice.adapter:
        return None
    if night.in_past:
        state = read_state(root, plan.workload_id, plan.client_id, at=plan.cutoff)
    if state is None:
        return None
    if state.hold is not None and holds_back(
        root, state.hold, report.data.dataset, plan.config.promotion.hold_share
    ):
        return state.hold
    return state.turns_down(choice.adapter)


def overtaken_by(
    root: ArtifactRoot, plan: Plan, report: Report, row: CandidatePart, state: Decision | None
) -> str:
    """Return why a run's choice gives way to what was decided meanwhile, as a sentence; empty: it need not.

    A run's promotion is done once: a second try of its task does not undo what a person decided after it. And
    by the rules a choice replaces the champion that it was compared with, not one that a person has put into
    production since the run was scored.

    Args:
        state: the champion's.
    """
    if state is None or state.champion is None or state.champion.adapter == row.adapter:
        return ""
    there = decisions(root, plan.workload_id, plan.client_id)
    own = [d.sequence for d in there if d.task == plan.run_id and d.kind == "promoted"]
    scored_at = report.decision.sequence
    if own:
        since = own[-1]
    elif plan.approval == "human" or scored_at is None:
        return ""
    else:
        since = scored_at
    later = [d for d in there if d.sequence > since and d.by and d.changed_champion]
    if not later:
        return ""
    last = later[-1]
    what = "rolled the champion back" if last.kind == "rolled back" else "promoted another candidate"
    when = f"{last.at[:16].replace('T', ' ')} UTC"
    since_when = "after this run had promoted" if own else "after this run was scored"
    return (
        f"{last.by} {what} at {when}, {since_when}: that stays. "
        f"To put {row.name} into production all the same, a person promotes it."
    )


def enter(
    root: ArtifactRoot,
    plan: Plan,
    report: Report,
    night: NightState,
    champion: Champion | None,
    *,
    by: str = "",
) -> Entry | None:
    """Write a night's entry, once its decision is in the report.

    A run whose split a client changed is an examination of its own, and no night: it has none.

    Args:
        champion: who would be in production after it.
        by: the person who was asked.
    """
    if plan.needs_a_person:
        return None
    choice = report.decision.choice
    entry = Entry(
        at=plan.cutoff,
        kind="backfill" if night.in_past else "night",
        run_id=plan.run_id,
        decision=_decision(report),
        reason=f"{report.decision.outcome} {report.decision.reason}",
        candidate=f"{choice.student} @ {choice.size}" if choice else None,
        champion=champion,
        before=night.previous.adapter if night.previous else None,
        compared_with=night.compared_with,
        by=by,
        written_at=now(),
    )
    return Timeline.of(root, plan).write(entry)


def _decision(report: Report) -> Outcome:
    state = report.decision.state
    if state in ("promoted", "would be promoted"):
        return "promoted"
    if state == "in place":
        return "kept"
    if state == "held":
        return "held"
    if state == "rejected":
        return "rejected"
    return "refused" if report.decision.choice else "none"


def moment(cutoff: int) -> str:
    """Return a cutoff as ISO 8601, UTC."""
    return datetime.fromtimestamp(cutoff, UTC).isoformat(timespec="seconds")
