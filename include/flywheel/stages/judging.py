"""Have the answers of a run's evaluations rated, and put the ratings among their scores.

It is done where the run is scored, for all students at once: jobs need no way to the judge and no key, the
same holds on every runtime, and answers that several students give are rated once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.evaluation.rating import AnswerPair, Judge, Rating
from flywheel.evaluation.rubric import CALLS, TEXTS, Rubric
from flywheel.jobs.result import EvaluateResult
from flywheel.report.model import JudgePart
from flywheel.report.outcomes import Outcomes
from flywheel.runs.plan import Plan
from flywheel.stages.customize import read_records
from flywheel.stages.examined import PREDICTIONS
from flywheel.stores import open_store
from flywheel.students.comparing import bootstrap_mean, teacher_calls
from flywheel.workloads.labels import without_thinking
from flywheel.workloads.tool_calls import parse_calls, same_calls, same_functions

log = logging.getLogger(__name__)

Row = Mapping[str, Any]


def judged(plan: Plan, outcomes: Outcomes) -> Outcomes:
    """Return outcomes with the judge's scores, where the workload has a judge; else as they are.

    Raises:
        JudgeError: the judge cannot be asked.
        ArtifactError: an evaluation or the dataset is missing or damaged.
    """
    config = plan.config
    kind = outcomes.curate.get("workload_type", "classification")
    by_judge = config.evaluation_config.tool_eval_type == "tool-calling-judge"
    if config.llm_judge_config is None or not (kind == "generic" or (kind == "tool_calling" and by_judge)):
        return outcomes
    root = ArtifactRoot(config.artifacts.root)
    records = read_records(root.fetch("datasets", outcomes.curate["dataset"]) / "eval.jsonl")
    ratings: list[Rating] = []
    with open_store(config.store) as store:
        judge = Judge(config, store, (plan.workload_id, plan.client_id))

        def rate(result: EvaluateResult | None) -> EvaluateResult | None:
            if result is None:
                return None
            rows = _rows(root, result)
            if len(rows) != len(records):
                raise ArtifactError(f"evaluation {result.key}: {len(rows)} answers to {len(records)} prompts")
            found = (
                _rate_calls(judge, records, rows) if kind == "tool_calling" else _rate(judge, records, rows)
            )
            values, rated = found
            ratings.extend(rated)
            name = "tool_calling_correctness" if kind == "tool_calling" else "judge_rating"
            return _with(result, name, values, config.evaluation_config.bootstrap_samples)

        update = {
            "base": [
                job.model_copy(update={"evaluate": rate(job.evaluate), "icl": rate(job.icl)})
                for job in outcomes.base
            ],
            "candidates": [
                job.model_copy(update={"evaluate": rate(job.evaluate)}) for job in outcomes.candidates
            ],
            "champion": rate(outcomes.champion),
            "judge": _part(judge, ratings, TEXTS if kind == "generic" else CALLS),
        }
    return outcomes.model_copy(update=update)


def _rate(judge: Judge, records: Sequence[Row], rows: Sequence[Row]) -> tuple[list[float], list[Rating]]:
    """Return the shares of the scale of the rated answers, and the ratings that the judge gave."""
    pairs = [
        AnswerPair(_request(record), str(record["messages"][-1]["content"]), without_thinking(row["answer"]))
        for record, row in zip(records, rows, strict=True)
    ]
    found = judge.rate(pairs, TEXTS)
    rated = [rating for rating in found if rating is not None]
    return [TEXTS.share(rating.mean) for rating in rated], rated


def _rate_calls(
    judge: Judge, records: Sequence[Row], rows: Sequence[Row]
) -> tuple[list[float], list[Rating]]:
    """Return whether each answer's calls are right, of the rated ones: the judge decides about arguments.

    Calls that are the teacher's are right, calls of other functions wrong, without asking.
    """
    values: list[float] = []
    pairs: list[AnswerPair] = []
    for record, row in zip(records, rows, strict=True):
        teacher, student = teacher_calls(record), parse_calls(row["answer"])
        if not row["answer"].strip() or not same_functions(teacher, student):
            values.append(0.0)
        elif same_calls(teacher, student):
            values.append(1.0)
        else:
            pairs.append(AnswerPair(_request(record), row["teacher"], row["student"]))
    rated = [rating for rating in judge.rate(pairs, CALLS) if rating is not None]
    return values + [CALLS.share(rating.mean) for rating in rated], rated


def _with(result: EvaluateResult, name: str, values: Sequence[float], samples: int) -> EvaluateResult:
    """Return an evaluation with one more score; as it is where nothing could be rated."""
    if not values:
        return result
    scores = np.asarray(values, np.float64)
    return result.model_copy(
        update={
            "scores": {**result.scores, name: float(scores.mean())},
            "intervals": {**result.intervals, name: bootstrap_mean(scores, samples)},
        }
    )


def _part(judge: Judge, ratings: Sequence[Rating], rubric: Rubric) -> JudgePart:
    counts = judge.counts
    # Pairs that were rated without asking say nothing about the judge.
    asked = [
        rating
        for rating in ratings
        if not rating.teacher_first == rating.student_first in (rubric.lowest, rubric.highest)
    ]
    if counts.unusable:
        log.warning(
            "%d pairs of answers have no usable rating of the judge and count nowhere", counts.unusable
        )

    def mean(value: Callable[[Rating], float]) -> float | None:
        return float(np.mean([value(rating) for rating in asked])) if asked else None

    return JudgePart(
        model=judge.model,
        asked=counts.asked,
        found=counts.found,
        given=counts.given,
        unusable=counts.unusable,
        consistent=mean(
            lambda rating: abs(rating.teacher_first - rating.student_first) <= rubric.highest // 10
        ),
        first_shown=mean(lambda rating: rating.teacher_first - rating.student_first),
    )


def _request(record: Row) -> str:
    """Return a record's request as the judge reads it."""
    return "\n\n".join(
        f"{message['role']}: {message.get('content') or ''}".strip() for message in record["messages"][:-1]
    )


def _rows(root: ArtifactRoot, result: EvaluateResult) -> list[dict[str, Any]]:
    with (root.fetch("evaluations", result.key) / PREDICTIONS).open("rb") as file:
        return [orjson.loads(line) for line in file]
