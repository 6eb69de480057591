"""Make the report out of what the stages and jobs of a run gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from flywheel.common.errors import ConfigError
from flywheel.config.evaluation import WorkloadType
from flywheel.curation.result import PromptCounts
from flywheel.evaluation.cascade import cascade_of
from flywheel.evaluation.choice import low_of
from flywheel.evaluation.cost import per_million
from flywheel.evaluation.statistics import standard_error
from flywheel.jobs.result import EvaluateResult
from flywheel.report.constant import Constant
from flywheel.report.costs import cost_of, teacher_each
from flywheel.report.model import (
    BasePart,
    BestPart,
    CandidatePart,
    ChampionPart,
    ClassPart,
    DataPart,
    DecisionPart,
    Report,
    State,
)
from flywheel.report.outcomes import JobOutcome, Outcomes
from flywheel.report.parts import (
    ConfusionPart,
    DisagreementPart,
    HumanClassPart,
    InjectionsPart,
    MetricPart,
    TeacherPart,
)
from flywheel.report.selection import best_of, choose
from flywheel.runs.plan import Plan
from flywheel.sources.spans import SourceSpan
from flywheel.teacher.agreement import Agreement
from flywheel.workloads.metrics import METRICS, Metric, main_metric, metrics_of
from flywheel.workloads.scoring import bootstrap_f1

# How answers that name no class are headed in the confusion matrix.
UNPARSABLE = "no class"
# A 95 % interval has so many standard errors.
_WIDTH95 = 2 * 1.96
_RESAMPLES = 1000


def build_report(plan: Plan, outcomes: Outcomes, constant: Constant | None = None) -> Report:
    """Return the report with all candidates and the choice among them, still undecided.

    Args:
        constant: the constant answer, which a candidate must beat; None where it is not known.
    """
    data = _data(outcomes)
    order = {student: index for index, student in enumerate(plan.students)}
    workload_type, metric = measured_by(plan, outcomes)
    rate = plan.config.promotion.error_rate
    rows = [_candidate(job, data.train, metric, rate) for job in outcomes.candidates]
    for job, row in zip(outcomes.candidates, rows, strict=True):
        row.per_million = money(plan, job.student, job.evaluate)
    if constant is not None:
        for job, row in zip(outcomes.candidates, rows, strict=True):
            if job.evaluate is not None and row.state == "scored":
                constant.beside(row, job.evaluate)
    rows.sort(key=lambda row: (order.get(row.student, len(order)), row.size))
    choice = choose(rows, plan.config.promotion, metric.title)
    chosen = choice.candidate
    for row in rows:
        if row.name in choice.tests:
            row.test_rate, row.passes = choice.tests[row.name]
            row.test_place = [*choice.tests].index(row.name) + 1 if choice.is_ordered else None
            row.score_low = low_of(row, row.test_rate) if row.score_error is not None else None
    return Report(
        run_id=plan.run_id,
        workload_id=plan.workload_id,
        client_id=plan.client_id,
        cutoff=plan.cutoff,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        workload_type=workload_type,
        metric=MetricPart(name=metric.name, title=metric.title, short=metric.short),
        judge=outcomes.judge,
        teacher=_teacher(plan, outcomes.label),
        base=[_base(job, metric) for job in outcomes.base],
        candidates=rows,
        constant=constant.part if constant else None,
        best=_best(best_of(rows), outcomes.candidates, plan, outcomes.label),
        decision=DecisionPart(
            state="pending" if chosen else "none",
            threshold=choice.threshold,
            choice=champion_part(chosen, choice.reason) if chosen else None,
            tested=choice.tested,
            error_rate=rate,
            reason=choice.reason,
        ),
        warnings=[
            *outcomes.label.get("warnings", ()),
            *outcomes.ingest.get("warnings", ()),
            *_notes(outcomes),
        ],
        data=data,
        counters={
            "teacher_calls": outcomes.label.get("asked", 0),
            "training_steps": sum(job.customize.steps_run for job in outcomes.candidates if job.customize),
        },
        cost=cost_of(plan, outcomes),
        stages={name: round(outcomes.seconds[name], 3) for name in STAGES if name in outcomes.seconds},
    )


STAGES = ("label", "ingest", "curate", "base_eval", "icl_eval", "customize", "evaluate", "score", "promote")


def measured_by(plan: Plan, outcomes: Outcomes) -> tuple[WorkloadType, Metric]:
    """Return the type of the run's workload, and the metric that its candidates are compared by.

    Raises:
        ConfigError: the config's metric is none of this type of workload.
    """
    workload_type: WorkloadType = outcomes.curate.get("workload_type", "classification")
    return workload_type, metric_of(plan, workload_type, judged=outcomes.judge is not None)


def metric_of(plan: Plan, workload_type: WorkloadType, *, judged: bool) -> Metric:
    """Return the metric that the candidates are compared by: the config's, else the workload type's own.

    Raises:
        ConfigError: the config's metric is none of this type of workload.
    """
    own, asked = main_metric(workload_type, judged=judged), plan.config.promotion.metric
    if asked is None:
        return own
    there = metrics_of(workload_type, judged=judged)
    if asked not in there:
        raise ConfigError(
            f"promotion.metric: {asked} is not measured here, in a workload of type {workload_type}"
            f"{'' if judged else ' without a judge'}; expected one of {', '.join(there)}"
        )
    return METRICS[asked]


def champion_part(row: CandidatePart, reason: str) -> ChampionPart:
    """Return a candidate as the report's choice or champion."""
    return ChampionPart(
        student=row.student,
        size=row.size,
        reason=reason,
        score=row.score,
        score_ci95=row.score_ci95,
        parameters=row.parameters,
        adapter=row.adapter,
        injections=row.injections,
    )


def injections_part(found: EvaluateResult) -> InjectionsPart | None:
    """Return how often a student did as a headline told it."""
    return InjectionsPart(**found.injections.model_dump()) if found.injections else None


def money(plan: Plan, student: str, found: EvaluateResult | None) -> float | None:
    """Return what a million of a student's answers cost by `prices`; None where that is not known."""
    gpus = {one.name: one.gpus for one in plan.config.students}.get(student, 1)
    hour = plan.config.prices.hour(found.device, gpus) if found is not None else None
    if found is None or found.answer_seconds is None or hour is None:
        return None
    return per_million(found.answer_seconds[0], hour)


def _candidate(job: JobOutcome, train: int | None, metric: Metric, rate: float) -> CandidatePart:
    assert job.size is not None
    row = CandidatePart(student=job.student, size=job.size)
    made, found = job.customize, job.evaluate
    if made is not None:
        row.parameters, row.adapter, row.found = made.parameters, made.adapter, made.steps_run == 0
        row.train_seconds, row.records_per_second = made.train_seconds, made.records_per_second
    if made is not None and found is not None and found.adapter == made.adapter:
        row.score, row.score_ci95 = found.scores.get(metric.name), found.intervals.get(metric.name)
        row.scores = found.scores
        row.injections = injections_part(found)
        row.unparsable, row.eval_records = found.unparsable, found.records
        row.ece = found.calibration.ece if found.calibration else None
        row.answers_per_second, row.evaluation = found.records_per_second, found.key
        row.latency_p50_ms, row.latency_p95_ms = found.latency_ms.p50, found.latency_ms.p95
        row.answer_seconds = found.answer_seconds
        row.batch_size, row.warmup_seconds = found.batch_size, found.warmup_seconds
        if found.single_ms is not None:
            row.single_p50_ms, row.single_p95_ms = found.single_ms.p50, found.single_ms.p95
        row.parameters = found.parameters
        if row.score is None:
            row.state, row.reason = "failed", f"judge: no usable rating of its answers ({metric.title})"
            return row
        row.score_error = _error_of(found, metric.name)
        return row
    row.state, row.reason = _state(job, train)
    return row


def _error_of(found: EvaluateResult, metric: str) -> float | None:
    """Return the standard error of a score: by its own formula, else by its interval; None without either."""
    matrix = np.array(found.confusion.matrix, np.int64)
    if metric == "f1_weighted" and matrix.any():
        return standard_error(matrix)
    if metric == "f1_macro" and matrix.any():
        f1, support = bootstrap_f1(matrix, _RESAMPLES)
        return float(f1.mean(1, where=support > 0).std())
    if metric in found.intervals:
        low, high = found.intervals[metric]
        return (high - low) / _WIDTH95
    share = found.scores.get(metric)
    return math.sqrt(share * (1 - share) / found.records) if share is not None and found.records else None


def _state(job: JobOutcome, train: int | None) -> tuple[State, str]:
    """Return why a job has no result: its state and the reason in words."""
    if job.size is not None and train is not None and train < job.size:
        return "unavailable", f"asks for {job.size:,} training records; the split has {train:,}"
    if job.failure is not None:
        return "failed", f"{job.failure.stage}: {job.failure.reason}"
    return "missing", "its jobs did not end"


def _base(job: JobOutcome, metric: Metric) -> BasePart:
    found, icl = job.evaluate, job.icl
    if found is None:
        state, reason = _state(job, None)
        part = BasePart(student=job.student, state=state, reason=reason)
    else:
        part = BasePart(
            student=job.student,
            parameters=found.parameters,
            score=found.scores.get(metric.name),
            score_ci95=found.intervals.get(metric.name),
            scores=found.scores,
            unparsable=found.unparsable,
            injections=injections_part(found),
        )
    if icl is not None:
        part.icl_score, part.icl_score_ci95 = icl.scores.get(metric.name), icl.intervals.get(metric.name)
        part.icl_examples = icl.icl_examples
    elif job.icl_failure is not None:
        part.icl_reason = job.icl_failure.reason
    return part


def _notes(outcomes: Outcomes) -> list[str]:
    """Return what became of records in jobs, each sentence once, with the candidates whose jobs said it."""
    said: dict[str, list[str]] = {}
    for job in [*outcomes.base, *outcomes.candidates]:
        name = job.student if job.size is None else f"{job.student} @ {job.size}"
        for result in (job.customize, job.evaluate, job.icl):
            for note in result.notes if result else ():
                said.setdefault(note, []).append(name)
    return [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in said.items()]


def _best(
    row: CandidatePart | None, jobs: list[JobOutcome], plan: Plan, label: dict[str, Any]
) -> BestPart | None:
    if row is None:
        return None
    found = next(job.evaluate for job in jobs if (job.student, job.size) == (row.student, row.size))
    assert found is not None
    asked = plan.config.serving.cascade
    classes = [ClassPart(label=name, **score.model_dump()) for name, score in found.per_class.items()]
    return BestPart(
        student=row.student,
        size=row.size,
        score=row.score,
        score_ci95=row.score_ci95,
        per_class=sorted(classes, key=lambda part: -part.support),
        confusion=_confusion(found.confusion.labels, found.confusion.matrix) if classes else None,
        calibration=found.calibration,
        cascade=cascade_of(found.calibration, asked.agreement) if asked is not None else None,
        teacher_each=teacher_each(label),
    )


def _confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> ConfusionPart:
    """Return a confusion matrix, most frequent class first, without what is nowhere and never answered.

    Args:
        matrix: its last column counts answers that name no class.
    """
    seen = [i for i in range(len(labels)) if sum(matrix[i]) or any(row[i] for row in matrix)]
    seen.sort(key=lambda i: -sum(matrix[i]))
    rest = len(labels)
    extra = [rest] if any(row[rest] for row in matrix) else []
    return ConfusionPart(
        labels=[labels[i] for i in seen],
        columns=[*(labels[i] for i in seen), *(UNPARSABLE for _ in extra)],
        matrix=[[matrix[i][j] for j in [*seen, *extra]] for i in seen],
    )


def _teacher(plan: Plan, label: dict[str, Any]) -> TeacherPart:
    found = label.get("human")
    human = Agreement.model_validate(found) if found else None
    each = teacher_each(label)
    part = TeacherPart(
        model=plan.config.teacher.model,
        disagreements_file=label.get("disagreements_file", ""),
        prompt_tokens=label.get("prompt_tokens", 0),
        cached_tokens=label.get("cached_tokens", 0),
        completion_tokens=label.get("completion_tokens", 0),
        estimated=label.get("estimated", 0),
        cost=label.get("cost", 0.0),
        currency=label.get("currency", ""),
        left=label.get("left", 0),
        per_million=None if each is None else 1e6 * each,
    )
    if human is None:
        return part
    part.human_scores, part.human_intervals = human.scores, human.intervals
    part.human_records, part.human_unknown = human.records, human.unknown
    if human.confusion:
        part.human_confusion = _confusion(human.confusion.labels, human.confusion.matrix)
    part.human_disagreements = [DisagreementPart(**row.model_dump()) for row in human.disagreements]
    classes = [_human_class(name, row) for name, row in human.per_class.items()]
    part.human_per_class = sorted(classes, key=lambda row: -row.support)
    return part


def _human_class(label: str, row: dict[str, float]) -> HumanClassPart:
    interval = (row["f1_low"], row["f1_high"]) if "f1_low" in row else None
    values = {name: row[name] for name in ("precision", "recall", "f1")}
    return HumanClassPart(label=label, **values, f1_ci95=interval, support=int(row["support"]))


def _data(outcomes: Outcomes) -> DataPart:
    label, ingest, curate = outcomes.label, outcomes.ingest, outcomes.curate
    stages = {"label": label, "ingest": ingest}
    prompts = PromptCounts.model_validate(curate.get("prompts", {}))
    sifted = "prompts" in curate
    return DataPart(
        dataset=curate.get("dataset"),
        foretold=outcomes.forecast.get("ask"),
        foretold_cost=outcomes.forecast.get("cost"),
        labelled=label.get("labelled"),
        marked=label.get("marked", {}),
        stored=ingest.get("written"),
        records=curate.get("total"),
        used=curate.get("used"),
        train=curate.get("train"),
        validation=curate.get("val"),
        calibration=curate.get("calibration"),
        eval=curate.get("eval"),
        split=curate.get("split"),
        known=curate.get("known", {}),
        events=curate.get("events"),
        left_out=curate.get("left_out"),
        conflicts=curate.get("conflicts"),
        conflict_examples=curate.get("conflict_examples", []),
        labelled_by=curate.get("labelled_by", {}),
        exact_duplicates=curate.get("duplicates"),
        near_duplicates=curate.get("near_duplicates"),
        other_prompts=prompts.left_out - sum(prompts.removed_class.values()) if sifted else None,
        removed_classes=sum(prompts.removed_class.values()) if sifted else None,
        taken_over=sum(prompts.taken_over.values()) if sifted else None,
        stratified=curate.get("stratified"),
        notes=curate.get("notes", []),
        per_class=curate.get("per_class", {}),
        quarantined={name: part["quarantined"] for name, part in stages.items() if "quarantined" in part},
        reasons={**label.get("reasons", {}), **ingest.get("reasons", {})},
        sources=[
            SourceSpan.model_validate(span).line()
            for part in stages.values()
            for span in part.get("sources", ())
        ],
    )
