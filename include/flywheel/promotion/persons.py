"""The verdict checked against persons' labels: does the choice lose more by theirs than by the teacher's?

A student is promoted for agreeing with the teacher. Where a person labelled an eval record's text, both can
be held against that label. The verdict says that the choice loses no more than `allowed` (1 less the
threshold) against the teacher; persons contradict it where the choice's F1 by their labels is below the
teacher's by more than that, and by more than chance (paired delta method, one-sided at promotion.error_rate).

Only labels of texts with a time before the cutoff count, and only on eval records: what a student learned
from says nothing of it. So nothing is evaluated for this that was not already.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.curation.words import words_of
from flywheel.evaluation.statistics import bound_of_difference, f1_with_interval, paired_difference
from flywheel.report.baseline import lines_of, text_in
from flywheel.report.checks import PersonsPart
from flywheel.report.model import Report
from flywheel.runs.plan import Plan
from flywheel.teacher.persons import FILE
from flywheel.workloads.workload import Workload

# With fewer eval records that a person labelled, nothing is said: the test's error is a normal one.
LEAST = 30


def check_by_persons(root: ArtifactRoot, plan: Plan, report: Report, folder: Path) -> None:
    """Write into a report's decision how its choice, or the best, and the teacher agree with persons.

    Where persons contradict the verdict on the choice, that is a doubt: it is not promoted by itself.

    Args:
        folder: the run's, with the labels that stage label kept.

    Raises:
        ArtifactError: the dataset or the evaluation is missing or damaged.
    """
    decision, labelled = report.decision, dict(_labels(folder / FILE, plan.cutoff))
    shown = decision.choice or report.best
    row = report.candidate(shown.student, shown.size) if shown else None
    if row is None or row.evaluation is None or decision.threshold is None or report.data.dataset is None:
        return
    if not labelled and not report.teacher.human_records:
        return
    none: list[str] = []
    persons, teacher, answers = none, none, none
    if labelled:
        persons, teacher, answers = _answers(
            root, report.data.dataset, row.evaluation, labelled, plan.workload
        )
    part = PersonsPart(
        student=row.student, size=row.size, records=len(persons), allowed=max(0.0, 1 - decision.threshold)
    )
    decision.persons = part
    if part.records < LEAST:
        return
    rate = plan.config.promotion.error_rate
    part.teacher, part.teacher_ci95 = f1_with_interval(persons, teacher)
    part.answers, part.answers_ci95 = f1_with_interval(persons, answers)
    part.difference, error = paired_difference(persons, answers, teacher)
    part.high = -bound_of_difference(-part.difference, error, rate)
    part.contradicts = part.high < -part.allowed
    if part.contradicts and decision.choice is not None:
        decision.doubts.append(part.sentence())


def _labels(path: Path, cutoff: int) -> Iterator[tuple[str, str]]:
    """Yield the words of each text with its label; of texts that persons label differently none counts."""
    found: dict[str, set[str]] = {}
    for line in lines_of(path):
        if line["known_at"] < cutoff:
            found.setdefault(_words(line["text"]), set()).add(line["label"])
    yield from ((words, labels.pop()) for words, labels in found.items() if len(labels) == 1)


def _answers(
    root: ArtifactRoot, dataset: str, evaluation: str, labelled: dict[str, str], workload: Workload
) -> tuple[list[str], list[str], list[str]]:
    """Return persons' labels, the teacher's and a student's for the eval records that persons labelled."""
    if not root.find("evaluations", evaluation):
        raise ArtifactError(f"evaluation {evaluation} is no longer in the artifact root")
    human = {
        row["id"]: labelled[words]
        for row in lines_of(root.fetch("datasets", dataset) / "eval.jsonl")
        if (words := _words(text_in(row, workload))) in labelled
    }
    lines = (root.fetch("evaluations", evaluation) / "predictions.jsonl").read_bytes().splitlines()
    rows = [row for row in map(orjson.loads, lines) if row["id"] in human]
    persons = [human[row["id"]] for row in rows]
    return persons, [row["teacher"] for row in rows], [row["student"] or "" for row in rows]


def _words(text: str) -> str:
    return " ".join(words_of(text))
