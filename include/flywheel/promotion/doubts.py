"""What speaks against promoting a run's choice without a person: too few records, or a better champion."""

from __future__ import annotations

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.curation.seen import seen_ids, seen_in_eval
from flywheel.evaluation.answers import difference, read_answers
from flywheel.evaluation.choice import EPSILON, margin_left
from flywheel.evaluation.cost import cheapest_first
from flywheel.evaluation.statistics import bound_of_difference
from flywheel.jobs.result import EvaluateResult
from flywheel.promotion.champion import Champion
from flywheel.promotion.timeline import Timeline
from flywheel.report import figures
from flywheel.report.build import money
from flywheel.report.checks import ComparisonPart
from flywheel.report.model import CandidatePart, Report
from flywheel.runs.plan import Plan
from flywheel.workloads.metrics import METRICS, main_metric

# How long a champion is remembered in the margin, in seconds.
REMEMBERED = 90 * 86400


def add_doubts(
    root: ArtifactRoot, plan: Plan, report: Report, standing: Champion | None, anew: EvaluateResult | None
) -> None:
    """Write into a report's decision what speaks against promoting its choice, in words.

    Args:
        standing: the champion in force.
        anew: its evaluation on this run's eval set; None where there is none.

    Raises:
        ArtifactError: the champion's history is damaged.
    """
    choice = report.decision.choice
    row = report.candidate(choice.student, choice.size) if choice else None
    if row is None:
        return
    promotion, doubts = plan.config.promotion, report.decision.doubts
    records = row.eval_records or 0
    if records < promotion.min_eval:
        doubts.append(
            f"{figures.count(records)} eval records are too few to promote by: promotion.min_eval asks for "
            f"{figures.count(promotion.min_eval)}."
        )
    if standing is None or standing.adapter == row.adapter or standing.run_id == plan.run_id:
        return
    if standing.cutoff > plan.cutoff:
        return  # the decision tells it
    if anew is None or anew.adapter != standing.adapter:
        doubts.append(f"{standing.name}, in production, was not measured on this run's eval set.")
        return
    try:
        found = _compared(root, plan, report, row, standing, anew)
    except ArtifactError as error:
        doubts.append(f"{row.name} cannot be compared with {standing.name}, in production: {error}")
        return
    report.decision.comparison = found
    if not found.passes:
        asked = "better" if found.needed >= 0 else f"less than {figures.f1(-found.needed)} worse"
        doubts.append(
            f"{row.name} is not shown to be {asked} than {standing.name}, in production: on the same "
            f"{figures.count(found.records)} records it scores {found.difference:+.3f}{_by(found, report)}, "
            f"at least {found.low:+.3f} with {100 * (1 - promotion.error_rate):.1f} % confidence."
        )


def _by(found: ComparisonPart, report: Report) -> str:
    """Say what the two were compared by, where it is not the report's metric."""
    if found.metric == report.metric.name:
        return ""
    return f" by {figures.in_sentence(METRICS[found.metric].title)}"


def _compared(
    root: ArtifactRoot,
    plan: Plan,
    report: Report,
    row: CandidatePart,
    standing: Champion,
    anew: EvaluateResult,
) -> ComparisonPart:
    """Compare the choice with the champion in force by a paired test.

    Both are measured by tonight's metric, whatever the champion was chosen by. Where that is none that each
    record has, a judge's, it is the workload type's own; of macro F1 it is the weighted one.
    """
    assert row.evaluation is not None
    metric, promotion = report.metric.name, plan.config.promotion
    seen: set[str] = set()
    if standing.dataset and report.data.dataset and root.find("datasets", standing.dataset):
        learned = seen_ids(root, standing.dataset, standing.size)
        seen = seen_in_eval(root, report.data.dataset, learned)
    new, old = read_answers(root, row.evaluation, metric), read_answers(root, anew.key, metric)
    if metric not in ("f1_weighted", "f1_macro") and (new.values is None or old.values is None):
        metric = main_metric(report.workload_type).name
        new, old = read_answers(root, row.evaluation, metric), read_answers(root, anew.key, metric)
    if new.ids != old.ids:
        raise ArtifactError("their evaluations are of different records")
    kept = [place for place, record in enumerate(new.ids) if record not in seen]
    if not kept:
        raise ArtifactError("it has learned from all of the eval records")
    gain, error = difference(new, old, kept)
    there = CandidatePart(
        student=standing.student,
        size=standing.size,
        parameters=standing.parameters,
        answer_seconds=anew.answer_seconds,
        per_million=money(plan, standing.student, anew),
    )
    is_cheaper = cheapest_first([there, row])[0] is row
    needed = -margin_left(_gains(root, plan, report.metric.name), promotion.margin) if is_cheaper else 0.0
    low = bound_of_difference(gain, error, promotion.error_rate)
    return ComparisonPart(
        champion=standing.adapter,
        metric="f1_weighted" if new.values is None else metric,
        records=len(kept),
        seen=len(new.ids) - len(kept),
        difference=gain,
        low=low,
        needed=needed,
        passes=low > EPSILON if needed == 0 else low >= needed - EPSILON,
    )


def _gains(root: ArtifactRoot, plan: Plan, metric: str) -> list[float]:
    """Return what each champion of the last 90 days won over the one before it, where that was measured.

    What was won by another metric is no distance of this one's.
    """
    line = Timeline.of(root, plan)
    # What the first of them won over one of before is not remembered.
    later = line.champions_between(plan.cutoff - REMEMBERED, plan.cutoff)[1:]
    return [one.gain for one in later if one.gain is not None and one.metric == metric]
