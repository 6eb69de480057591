"""Stage 7: put the chosen candidate into production, or keep the champion that is there.

The order makes a kill harmless: the MLflow registry, then the champion's own copy, then the decision, which
is one file under a name that must be free, then the timeline's entry, then the report. Where another decision
comes first, all is judged anew on the state after it (flywheel.promotion.transitions). A retry finds what was
done: the version in the registry, the copy, the decision, the entry. A night in the past writes the entry and
the report alone. It takes 2.3 s of CPU time, nearly all of it to open MLflow, and 0.1 s where the champion
stays.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.evaluation.cascade import Cascade, cascade_of
from flywheel.jobs.result import EvaluateResult
from flywheel.promotion.champion import Champion, Decision, RegistryEntry
from flywheel.promotion.holds import NOBODY, Hold
from flywheel.promotion.mlflow_client import TrackingError
from flywheel.promotion.registry import point_alias, register
from flywheel.promotion.tracking import track_files
from flywheel.promotion.transitions import Draft, decide, lifted, promoted, registered, rejected
from flywheel.promotion.whole import keep_whole
from flywheel.report.files import HTML_FILE, write_report
from flywheel.report.model import REPORT_FILE, CandidatePart, Report
from flywheel.report.selection import score_of
from flywheel.report.verdict import verdict_of
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages.night import NightState, enter, hold_on, moment, night_of, overtaken_by
from flywheel.stages.outcome import is_worse, words
from flywheel.stages.score import ScoreResult, production_part

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
    judge = _Judge(root, plan, report, row, scored.reason, approved, comment, by)
    after, _ = decide(root, plan.workload_id, plan.client_id, judge.judge, by=judge.person, task=plan.run_id)
    judge.turn_alias_back(after)
    night, previous = judge.night, judge.night.previous
    state = report.decision.state
    champion = judge.would_be or (night.standing if night.in_past or after is None else after.champion)
    report.decision.in_past = night.in_past
    report.decision.outcome = " ".join(
        words(plan, report, row, champion, previous, judge.hold, judge.overtaken)
    )
    report.decision.comment = comment
    report.decision.worse = not night.in_past and is_worse(report, champion, previous)
    report.production = production_part(champion) if champion else None
    is_champion = state in ("promoted", "in place") and not night.in_past
    report.champion = report.production if is_champion else None
    enter(root, plan, report, night, champion, by=judge.person)
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


class _Judge:
    """Says what becomes of a run's choice on a state of the champion; asked anew where the state has moved.

    Attributes:
        night: where the night stands on the state that was seen last.
        hold: the word of a person that holds its choice back.
        overtaken: why it gives way to what a person decided meanwhile; empty: it need not.
        would_be: of a night in the past, its choice as the champion of then.
        person: who decides, where a person was asked and answered.
    """

    def __init__(
        self,
        root: ArtifactRoot,
        plan: Plan,
        report: Report,
        row: CandidatePart | None,
        reason: str,
        approved: bool,
        comment: str,
        by: str,
    ) -> None:
        self._root, self._plan, self._report, self._row = root, plan, report, row
        self._reason, self._approved, self._comment = reason, approved, comment
        self._by = by
        self._registered: RegistryEntry | None = None
        self.night: NightState
        self.hold: Hold | None = None
        self.overtaken = ""
        self.would_be: Champion | None = None
        self.person = by if plan.approval == "human" and by != NOBODY else ""

    def judge(self, state: Decision | None) -> Draft | None:
        """Write what becomes of the choice into the report; return the decision on the champion, if any."""
        root, plan, report, row = self._root, self._plan, self._report, self._row
        self.night = night = night_of(root, plan, row, state)
        by_person = plan.approval == "human" and not night.in_past
        self.hold = None if by_person else hold_on(root, plan, report, night, state)
        self.overtaken = ""
        if row is None:
            report.decision.state = "none"
            return None
        if not self._approved:
            report.decision.state = "rejected"
            return None if self._by == NOBODY else rejected(state, self._no(row))
        if not night.in_past:
            self.overtaken = overtaken_by(root, plan, report, row, state)
        standing = night.standing
        is_there = standing is not None and standing.adapter == row.adapter
        if plan.needs_a_person:
            report.decision.state = "none"
        elif is_there and standing is not None and standing.run_id != plan.run_id:
            report.decision.state = "in place"
        elif self.hold is not None:
            report.decision.state = "held"
        elif self.overtaken or (report.decision.doubts and not by_person):
            report.decision.state = "none"
        else:
            report.decision.state = "would be promoted" if night.in_past else "promoted"
        if report.decision.state == "would be promoted":
            then = self._champion(row, None)
            self.would_be = then.model_copy(update={"promoted_at": moment(plan.cutoff)})
        if night.in_past or report.decision.state not in ("promoted", "in place"):
            return None
        registry = self._register(row, standing)
        if not is_there:
            return promoted(state, keep_whole(root, plan, self._champion(row, registry)))
        assert standing is not None
        noted = standing.model_copy(update={"registry": registry or standing.registry})
        if by_person and report.decision.state == "in place":
            yes = lifted(state, promoted=row.adapter)
            if yes is not None:
                return yes._replace(champion=noted)
        return registered(state, noted)

    def turn_alias_back(self, state: Decision | None) -> None:
        """Have MLflow's alias name the champion in force, where this run has turned it and then gave way."""
        standing = state.champion.registry if state and state.champion else None
        if self._registered is None or standing is None or standing == self._registered:
            return
        try:
            point_alias(self._plan.config.mlflow_config, standing)
        except TrackingError as error:
            _warn(self._report, f"The alias in the MLflow model registry names another champion: {error}")

    def _no(self, row: CandidatePart) -> Hold:
        assert row.adapter is not None
        return Hold(
            workload_id=self._plan.workload_id,
            client_id=self._plan.client_id,
            dataset=self._report.data.dataset,
            adapter=row.adapter,
            by=self._by,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            why="rejected",
            comment=self._comment,
        )

    def _champion(self, row: CandidatePart, registry: RegistryEntry | None) -> Champion:
        return champion_of(
            self._plan, self._report, row, reason=self._reason, comment=self._comment, registry=registry
        )

    def _register(self, row: CandidatePart, standing: Champion | None) -> RegistryEntry | None:
        """Register the candidate; what was registered already is left as it is."""
        registry = _registered_already(self._report, row, standing)
        if registry is None:
            try:
                registry = self._registered = register(self._plan, row, self._reason)
            except TrackingError as error:
                _warn(self._report, f"Not in the MLflow model registry: {error}")
        return registry


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
        family=student.family,
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
        run_id=plan.run_id,
        cutoff=plan.cutoff,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        comment=comment,
        registry=registry,
        gain=_gain(report, row),
        cascade=_cascade(plan, row),
    )


def _cascade(plan: Plan, row: CandidatePart) -> Cascade | None:
    """Return from where on a candidate answers by itself; None where no cascade is asked for."""
    asked = plan.config.serving.cascade
    if asked is None:
        return None
    run = Run(ArtifactRoot(plan.config.artifacts.root), plan.run_id, plan.dag_id)
    found = run.load(f"jobs/{row.student}@{row.size}/evaluate", EvaluateResult)
    return cascade_of(found.calibration, asked.agreement)


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
