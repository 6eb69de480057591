"""Stage 6: all candidates side by side in table 1, the learning curve, the report and MLflow.

In a fresh process, where everything was found, it takes 3 s of CPU time: MLflow's imports and the opening of
its database 2 s, matplotlib 0.7 s. The TF-IDF baseline adds 2 to 3.5 s, once for a dataset, and what
the other split would have shown about as long as two of its sizes.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, FlywheelError
from flywheel.jobs.result import EvaluateResult
from flywheel.promotion.champion import Champion, read_state
from flywheel.promotion.doubts import add_doubts
from flywheel.promotion.mlflow_client import TrackingError
from flywheel.promotion.persons import check_by_persons
from flywheel.promotion.timeline import compared_champion
from flywheel.promotion.tracking import track, track_files
from flywheel.report.baseline import baseline
from flywheel.report.build import build_report, injections_part, measured_by
from flywheel.report.constant import Constant, constant_of
from flywheel.report.curve import draw_png
from flywheel.report.files import CURVE_FILE, mark_latest, write_report
from flywheel.report.model import ChampionPart, Remeasured, Report
from flywheel.report.other_split import other_split
from flywheel.report.outcomes import Outcomes, gather
from flywheel.report.tested import how_tested
from flywheel.report.verdict import told_by, verdict_of
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages.judging import judged

__all__ = ["Outcomes", "ScoreResult", "gather", "production_part", "score"]

log = logging.getLogger(__name__)


class ScoreResult(BaseModel):
    """What scoring found.

    Attributes:
        report: path of report.json relative to the artifact root; report.html and learning_curve.png are
            beside it.
        scored, failed: candidates with a result, and without one for whatever reason.
        best: the candidate with the highest score, as `3b @ 25000`.
        chosen: the candidate that is to be promoted; None where none is good enough.
        adapter: key of its adapter.
        metric: the name of the metric; `score` of the chosen candidate by it.
        injections: of the chosen candidate: `followed a headline's instruction in 2 of 30`.
        reason: why it was chosen, or why none was, in words.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    report: str
    scored: int
    failed: int
    best: str | None
    chosen: str | None
    adapter: str | None
    metric: str
    score: float | None
    injections: str = ""
    reason: str


def score(plan: Plan, folder: Path, outcomes: Outcomes) -> ScoreResult:
    """Put all candidates into the table, the learning curve, the report and MLflow, and choose among them.

    A baseline that cannot be fitted, and an MLflow that cannot be reached, are warnings of the report.

    Args:
        folder: the run's folder; gets report.json, report.html and learning_curve.png.

    Raises:
        ArtifactError: the artifact root cannot be written, or the champion file is damaged.
        ConfigError: promotion.metric is none of this type of workload.
        JudgeError: the judge cannot be asked.
    """
    started = time.monotonic()
    root = ArtifactRoot(plan.config.artifacts.root)
    outcomes = judged(plan, outcomes)
    constant, trouble = _constant(root, plan, outcomes)
    report = build_report(plan, outcomes, constant)
    if trouble:
        _warn(report, trouble)
    _add_baseline(root, plan, report)
    _add_other_split(root, plan, report)
    # Before the champion is read: what is decided from here on, the choice was not compared with.
    state = read_state(root, plan.workload_id, plan.client_id)
    report.decision.sequence = state.sequence if state else 0
    standing = compared_champion(root, plan)
    report.production = production_part(standing) if standing else None
    report.remeasured = _remeasured(report, outcomes.champion)
    add_doubts(root, plan, report, standing, outcomes.champion)
    try:
        check_by_persons(root, plan, report, folder)
    except FlywheelError as error:
        _warn(report, f"The verdict is not checked against persons' labels: {error}")
    if report.judge is not None and report.judge.unusable:
        judge = report.judge
        _warn(report, f"{judge.model} gave no usable rating of {judge.unusable} pairs; they count nowhere")
    report.decision.test = how_tested(report, plan.config.promotion)
    report.verdict = verdict_of(report)
    made = {f"{job.student} @ {job.size}": job.customize for job in outcomes.candidates if job.customize}
    try:
        report.tracking = track(plan, report, made)
    except TrackingError as error:
        _warn(report, f"Not tracked: {error}")
    draw_png(report, folder / CURVE_FILE)
    report.stages["score"] = round(time.monotonic() - started, 3)
    files = write_report(folder, report)
    if report.tracking:
        try:
            track_files(plan, report.tracking, [*files, folder / CURVE_FILE])
        except TrackingError as error:
            _warn(report, f"The report's files are not in MLflow: {error}")
            write_report(folder, report)
    run = Run(root, plan.run_id, plan.dag_id)
    mark_latest(run)
    choice = report.decision.choice
    return ScoreResult(
        report=f"{run.path}/report.json",
        scored=len(report.scored),
        failed=len(report.candidates) - len(report.scored),
        best=f"{report.best.student} @ {report.best.size}" if report.best else None,
        chosen=f"{choice.student} @ {choice.size}" if choice else None,
        adapter=choice.adapter if choice else None,
        metric=report.metric.name,
        score=choice.score if choice else None,
        injections=told_by(choice.injections) if choice and choice.injections else "",
        reason=report.decision.reason,
    )


def _remeasured(report: Report, measured: EvaluateResult | None) -> Remeasured | None:
    """Return the champion on this run's eval set; None where it was not measured."""
    if measured is None or measured.adapter is None:
        return None
    return Remeasured(
        adapter=measured.adapter,
        score=measured.scores.get(report.metric.name),
        score_ci95=measured.intervals.get(report.metric.name),
        injections=injections_part(measured),
    )


def production_part(champion: Champion) -> ChampionPart:
    """Return a champion as the report shows what is in production."""
    entry = champion.registry
    return ChampionPart(
        student=champion.student,
        size=champion.size,
        reason=champion.reason,
        score=champion.score,
        score_ci95=champion.score_ci95,
        parameters=champion.parameters,
        adapter=champion.adapter,
        run_id=champion.run_id,
        promoted_at=champion.promoted_at,
        registry=f"{entry.model} version {entry.version}" if entry else None,
    )


def _constant(root: ArtifactRoot, plan: Plan, outcomes: Outcomes) -> tuple[Constant | None, str]:
    """Return the constant answer that candidates must beat; or None and why there is none."""
    dataset = outcomes.curate.get("dataset")
    if dataset is None:
        return None, ""
    try:
        return constant_of(root, plan, dataset, *measured_by(plan, outcomes)), ""
    except (ArtifactError, ValueError, KeyError) as error:  # ValueError: the eval set is empty
        return None, f"No constant answer to compare with: {error}"


def _add_baseline(root: ArtifactRoot, plan: Plan, report: Report) -> None:
    if report.data.dataset is None or report.metric.name != "f1_weighted":
        return  # it tells classes apart, and can neither call nor write
    if report.workload_type != "classification":
        return
    try:
        sizes = sorted({row.size for row in report.candidates})
        report.baseline = baseline(root, report.data.dataset, sizes, plan.workload)
    except (FlywheelError, ValueError, KeyError) as error:  # ValueError: no words in the texts
        _warn(report, f"No TF-IDF baseline: {error}")


def _add_other_split(root: ArtifactRoot, plan: Plan, report: Report) -> None:
    if report.data.dataset is None or report.workload_type != "classification" or not report.candidates:
        return
    try:
        largest = max(row.size for row in report.candidates)
        report.other_split = other_split(
            root, report.data.dataset, plan.config.data_split_config, largest, plan.workload
        )
    except (FlywheelError, ValueError, KeyError) as error:  # ValueError: no words in the texts
        _warn(report, f"What the other split would have shown is not known: {error}")


def _warn(report: Report, text: str) -> None:
    log.warning("%s", text)
    report.warnings.append(text)
